// Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
// Publishes or hears std_msgs/Bool on a topic with Cyclone DDS: a DDS with security that needs no ROS.
// flag pub|sub DOMAIN TOPIC prints one line: "published", "heard N", or what was refused and why.

#include "Flag.h"
#include "dds/dds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int refused(const char *what, dds_entity_t code)
{
  printf("%s: %s\n", what, dds_strretcode(-code));
  return 1;
}

int main(int argc, char **argv)
{
  if (argc != 4) {
    return 2;
  }
  dds_entity_t participant = dds_create_participant(atoi(argv[2]), NULL, NULL);
  if (participant < 0) {
    return refused("participant", participant);
  }
  dds_entity_t topic =
    dds_create_topic(participant, &std_msgs_msg_dds__Bool__desc, argv[3], NULL, NULL);
  if (topic < 0) {
    return refused("topic", topic);
  }
  dds_qos_t *qos = dds_create_qos();
  dds_qset_reliability(qos, DDS_RELIABILITY_RELIABLE, DDS_SECS(1));
  if (strcmp(argv[1], "pub") == 0) {
    dds_entity_t writer = dds_create_writer(participant, topic, qos, NULL);
    if (writer < 0) {
      return refused("writer", writer);
    }
    std_msgs_msg_dds__Bool_ flag = {true};
    for (int n = 0; n < 400; n++) {
      dds_write(writer, &flag);
      dds_sleepfor(DDS_MSECS(20));
    }
    printf("published\n");
  } else {
    dds_entity_t reader = dds_create_reader(participant, topic, qos, NULL);
    if (reader < 0) {
      return refused("reader", reader);
    }
    int heard = 0;
    for (int n = 0; n < 400 && heard == 0; n++) {
      void *sample[1] = {NULL};
      dds_sample_info_t info[1];
      if (dds_take(reader, sample, info, 1, 1) > 0) {
        heard += info[0].valid_data;
        dds_return_loan(reader, sample, 1);
      }
      dds_sleepfor(DDS_MSECS(20));
    }
    printf("heard %d\n", heard);
  }
  dds_delete(participant);
  return 0;
}
