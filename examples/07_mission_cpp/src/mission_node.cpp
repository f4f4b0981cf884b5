// Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
//
// Mission code: slow down when the segmentation is unsure, and ask for a log of it.
// The same as ../06_mission_node.py; docs/guides/mission.md explains it.

#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <string>

#include "diagnostic_msgs/msg/diagnostic_array.hpp"
#include "rclcpp/rclcpp.hpp"
#include "sensor_msgs/msg/joint_state.hpp"
#include "std_msgs/msg/float32.hpp"
#include "std_srvs/srv/trigger.hpp"

using diagnostic_msgs::msg::DiagnosticArray;
using sensor_msgs::msg::JointState;
using std_msgs::msg::Float32;
using std_srvs::srv::Trigger;
using Clock = std::chrono::steady_clock;

enum Kind { CONFIDENT = 0, UNCERTAIN = 1, RECOVERING = 2, FAULT = 3, UNKNOWN = 4 };

class MissionNode : public rclcpp::Node
{
public:
  MissionNode()
  : Node("mission"),
    cruise_mps_(declare_parameter("cruise_mps", 1.0)),
    slow_mps_(declare_parameter("slow_mps", 0.3)),
    // Of this node's own, so that it fits the node's stale_timeout_s, whatever that is.
    timeout_(declare_parameter("timeout_s", 1.5)),
    compares_(declare_parameter("compare_clocks", true))
  {
    limit_ = create_publisher<Float32>("speed_limit", 10);
    trigger_ = create_client<Trigger>("trigger_log");
    // Reliable and volatile, as it is offered: no old verdict is received.
    verdict_ = create_subscription<JointState>(
      "verdict", 10, [this](JointState::ConstSharedPtr msg) {on_verdict(*msg);});
    status_ = create_subscription<DiagnosticArray>(
      "status", 10, [this](DiagnosticArray::ConstSharedPtr msg) {on_status(*msg);});
    timer_ = create_wall_timer(std::chrono::milliseconds(100), [this]() {on_timer();});
  }

private:
  static std::optional<double> value_of(const JointState & msg, const std::string & name)
  {
    for (size_t i = 0; i < msg.name.size() && i < msg.position.size(); ++i) {
      if (msg.name[i] == name) {
        return msg.position[i];
      }
    }
    return std::nullopt;
  }

  void on_verdict(const JointState & msg)
  {
    const int before = kind_;
    const double kind = value_of(msg, "kind").value_or(FAULT);
    const bool is_one = kind >= CONFIDENT && kind <= UNKNOWN && kind == std::floor(kind);
    kind_ = is_one ? static_cast<int>(kind) : FAULT;
    if (kind_ == CONFIDENT && value_of(msg, "confident") != 1.0) {
      kind_ = FAULT;  // never by two values that contradict each other
    }
    heard_ = Clock::now();
    const double age_s = value_of(msg, "age_s").value_or(NAN);
    // Where no age was measured, the stamp is that of the verdict itself, or it is a fault.
    judged_s_ = msg.header.stamp.sec + msg.header.stamp.nanosec * 1e-9 +
      (std::isfinite(age_s) ? age_s : 0.0);
    if (is_silent()) {
      RCLCPP_WARN_THROTTLE(
        get_logger(), *get_clock(), 10000,
        "this verdict was not judged now: it waited, or the clocks differ (compare_clocks)");
    }
    if (before == CONFIDENT && kind_ == UNCERTAIN) {
      ask_for_log();
    }
  }

  // Say why the kind of the verdict changed; nothing else is taken from this topic.
  void on_status(const DiagnosticArray & msg)
  {
    for (const auto & status : msg.status) {
      for (const auto & entry : status.values) {
        if (entry.key == "kind" && entry.value != told_kind_) {
          told_kind_ = entry.value;
          RCLCPP_INFO(get_logger(), "%s: %s", told_kind_.c_str(), status.message.c_str());
        }
      }
    }
  }

  void on_timer()
  {
    Float32 limit;
    limit.data = static_cast<float>(is_silent() ? 0.0 : limit_of(kind_));
    limit_->publish(limit);
  }

  bool is_silent()
  {
    if (!heard_ || Clock::now() - *heard_ > timeout_) {
      return true;
    }
    return compares_ && std::abs(now().seconds() - judged_s_) > timeout_.count();
  }

  double limit_of(int kind) const
  {
    if (kind == CONFIDENT) {
      return cruise_mps_;
    }
    return kind == UNCERTAIN || kind == RECOVERING ? slow_mps_ : 0.0;
  }

  void ask_for_log()
  {
    if (!trigger_->service_is_ready()) {
      RCLCPP_WARN(get_logger(), "no log is asked for: trigger_log is not there");
      return;
    }
    // Answered later, in a callback: a mission does not wait for a disk.
    trigger_->async_send_request(
      std::make_shared<Trigger::Request>(),
      [this](rclcpp::Client<Trigger>::SharedFuture done) {
        RCLCPP_INFO(get_logger(), "log: %s", done.get()->message.c_str());
      });
  }

  const double cruise_mps_, slow_mps_;
  const std::chrono::duration<double> timeout_;
  const bool compares_;
  int kind_ = UNKNOWN;
  std::string told_kind_;
  std::optional<Clock::time_point> heard_;
  double judged_s_ = -INFINITY;
  rclcpp::Publisher<Float32>::SharedPtr limit_;
  rclcpp::Client<Trigger>::SharedPtr trigger_;
  rclcpp::Subscription<JointState>::SharedPtr verdict_;
  rclcpp::Subscription<DiagnosticArray>::SharedPtr status_;
  rclcpp::TimerBase::SharedPtr timer_;
};

int main(int argc, char ** argv)
{
  rclcpp::init(argc, argv);
  rclcpp::spin(std::make_shared<MissionNode>());
  rclcpp::shutdown();
  return 0;
}
