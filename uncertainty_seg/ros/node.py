# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The lifecycle node: wiring and callbacks only.

configure opens the model, activate listens, deactivate stops, cleanup frees. In every state but
active, and whenever no verdict was reached for too long, the flag is published as false with the
reason. Callbacks run in one executor thread and never wait for the network; frames are worked on
in the worker's.

"""

from __future__ import annotations

from collections.abc import Callable
import time

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import Image

from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendError
from uncertainty_seg.ros.camera_link import CameraLink
from uncertainty_seg.ros.engine_builder import BuildState, open_or_build
from uncertainty_seg.ros.frame_intake import FrameIntake
from uncertainty_seg.ros.frame_mailbox import Mailbox
from uncertainty_seg.ros.frame_processor import FrameProcessor, Outputs
from uncertainty_seg.ros.frame_statistics import FrameStatistics
from uncertainty_seg.ros.health import Health, HealthPublisher
from uncertainty_seg.ros.parameters import ParameterServer
from uncertainty_seg.ros.publishers import PicturePublishers, VerdictPublishers
from uncertainty_seg.ros.qos_events import WatchedTopicsNode
from uncertainty_seg.ros.transitions import said, SoundLifecycleNode
from uncertainty_seg.ros.transport_hints import why_silent
from uncertainty_seg.ros.watchdog import Watchdog
from uncertainty_seg.ros.worker import Worker
from uncertainty_seg.storage.ignore_mask import load_ignore_mask
from uncertainty_seg.storage.model_bundle import load_bundle

NODE_NAME = 'uncertainty_seg'
DIAGNOSTICS_PERIOD_S = 1.0
SILENCE_HINT_S = 5.0
STOP_TIMEOUT_S = 5.0


class UncertaintySegNode(WatchedTopicsNode, SoundLifecycleNode):
    """
    Segment images, and say how far to trust the result.

    Parameters
    ----------
    is_stopping : callable, optional
        Whether the process was told to end; asked where a transition takes minutes.

    Raises
    ------
    ConfigError
        If a parameter is out of range at the start.

    """

    def __init__(self, is_stopping: Callable[[], bool] = lambda: False) -> None:
        super().__init__(NODE_NAME, namespace='')
        self._topics = self.watch_topics()
        self._is_stopping = is_stopping
        self._build: BuildState | None = None
        self._diagnosed_s = 0.0
        self._pipeline: Pipeline | None = None
        self._pictures: PicturePublishers | None = None
        self._served = ParameterServer(self, self._reconfigure)
        settings = self._served.settings
        self._verdicts = VerdictPublishers(self, settings.stale_timeout_s)
        self._flag_topic = self.resolve_topic_name('~/confident')
        self._statistics = FrameStatistics()
        self._watchdog = Watchdog(settings.stale_timeout_s)
        self._camera: CameraLink | None = None
        self._mailbox: Mailbox[Image] = Mailbox()
        self._intake = FrameIntake(self._mailbox)
        self._processor: FrameProcessor | None = None
        self._worker: Worker[Image] | None = None
        self._state = 'unconfigured'
        self._why_down = 'the node is unconfigured'
        self._hint = ''
        self._health = HealthPublisher(self)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        tick_s = min(max(settings.stale_timeout_s / 10, 0.01), 0.1)
        self.create_timer(tick_s, self._on_tick, clock=steady)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._on_diagnostics, clock=steady)
        self.fall(self._why_down)

    def autostart(self) -> bool:
        """Configure and activate unless a lifecycle manager does; False if that failed."""
        if not self._served.settings.autostart:
            return True
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def fall(self, reason: str) -> None:
        """Publish the flag as false, and go on saying so until the node is active."""
        self._why_down = reason
        self._verdicts.publish_fault(reason)

    def stop(self) -> None:
        """Shut down from whatever state, with a last false flag."""
        if self._state != 'finalized':
            self.trigger_shutdown()
        self._verdicts.flush(0.5)

    @said
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the model, built first if need be; the topics of the pictures appear."""
        settings = self._served.settings
        try:
            self._pipeline = open_or_build(load_bundle(settings.model), settings,
                                           self._say_build, self._is_stopping,
                                           load_ignore_mask(settings.ignore_mask))
        finally:
            self._build = None
        self._pictures = PicturePublishers(self)
        self._enter('inactive', 'the node is inactive')
        return TransitionCallbackReturn.SUCCESS

    @said
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen to the camera."""
        if self._pipeline is None or self._pictures is None:
            raise BackendError(
                'the engine is gone', fix='clean the node up and configure it again'
            )
        self._pipeline.fault('the node was just activated')
        self._watchdog = Watchdog(self._served.settings.stale_timeout_s)
        self._statistics = FrameStatistics()
        self._mailbox = Mailbox()
        self._intake = FrameIntake(self._mailbox)
        outputs = Outputs(self._verdicts, self._pictures, self._statistics)
        self._processor = FrameProcessor(
            self._pipeline, outputs, self._watchdog, lambda: self._served.settings
        )
        self._worker = Worker(self._mailbox, self._processor)
        self._worker.start()
        settings = self._served.settings
        self._camera = CameraLink(
            self, settings.reliability, self._intake, settings.image_transport)
        self._enter('active', 'no frame yet')
        self.get_logger().info(f'active, waiting for images on {self._camera.topic}')
        return TransitionCallbackReturn.SUCCESS

    @said
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen no more."""
        self._stop_listening()
        self._enter('inactive', 'the node is inactive')
        return TransitionCallbackReturn.SUCCESS

    @said
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        self._free()
        self._enter('unconfigured', 'the node is unconfigured')
        return TransitionCallbackReturn.SUCCESS

    @said
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, from any state."""
        self._free()
        self._enter('finalized', 'the node has shut down')
        return TransitionCallbackReturn.SUCCESS

    @said
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything; the node can be configured again."""
        self._free()
        self._enter('unconfigured', 'the node is unconfigured after an error')
        return TransitionCallbackReturn.SUCCESS

    def _say_build(self, state: BuildState) -> None:
        self._build = state
        self.fall(str(state))
        if time.monotonic() - self._diagnosed_s >= DIAGNOSTICS_PERIOD_S:
            self._on_diagnostics()

    def _enter(self, state: str, why_down: str) -> None:
        self._state = state
        self.fall(why_down)

    def _stop_listening(self) -> None:
        if self._processor is not None:
            # Before anything that takes time: nobody may go on believing a true meanwhile.
            self._processor.mute()
            self.fall('the node is stopping')
        if self._camera is not None:
            self._camera.close()
        is_back = self._worker is None or self._worker.stop(STOP_TIMEOUT_S)
        if not is_back:
            # A thread is still inside the engine: to free it now would end the process.
            self.get_logger().error('the engine does not return; its memory is kept')
            self._pipeline = None
        self._camera = self._worker = self._processor = None

    def _free(self) -> None:
        self._stop_listening()
        if self._pictures is not None:
            self._pictures.close()
        if self._pipeline is not None:
            self._pipeline.close()
        self._pipeline = self._pictures = None

    def _reconfigure(self, settings: Settings) -> None:
        if self._pipeline is None:
            return
        with self._verdicts.order:
            is_other_gate = settings.gate != self._pipeline.settings.gate
            self._pipeline.reconfigure(settings)
            if is_other_gate and self._state == 'active':
                self.fall('the gate was changed')

    def _on_tick(self) -> None:
        timeout_s = self._watchdog.timeout_s
        self._topics.note_silence(self._flag_topic, self._verdicts.silence_s())
        # A frame that is ready now is published before, or knows of the trip.
        with self._verdicts.order:
            if self._state == 'active':
                if not self._watchdog.is_stale():
                    return
                self._why_down = self._why_stale()
                if self._verdicts.is_confident:
                    self.get_logger().warning(f'not confident: {self._why_down}')
            # Said again and again, so that whoever joins late hears it, and the deadline is kept.
            if self._verdicts.is_confident or self._verdicts.silence_s() >= timeout_s / 2:
                self.fall(self._why_down)

    def _why_stale(self) -> str:
        silence_s = self._watchdog.silence_s()
        if self._processor is not None and self._processor.is_busy:
            return f'a frame has been in work too long, no verdict for {silence_s:.1f} s'
        topic = self._camera.topic if self._camera is not None else 'image'
        if self._intake.is_repeating:
            return f'{topic} repeats its last image, nothing new for {silence_s:.1f} s'
        return f'no frame on {topic} for {silence_s:.1f} s'

    def _on_diagnostics(self) -> None:
        self._diagnosed_s = time.monotonic()
        is_active, hint = self._state == 'active', ''
        silence_s = self._watchdog.silence_s()
        if self._camera is not None and self._processor is not None:
            is_silent = not self._processor.is_busy and not self._intake.is_repeating
            if silence_s >= SILENCE_HINT_S and is_silent:
                hint = why_silent(self, self._topics.subscription(self._camera.topic))
        conflicts = self._topics.say()
        if hint and hint != self._hint and hint not in conflicts:
            self.get_logger().warning(hint)
        self._hint = hint
        self._health.publish(Health(
            state=self._state, is_stale=is_active and silence_s >= self._watchdog.timeout_s,
            is_confident=self._verdicts.is_confident, why_down=self._why_down, hint=hint,
            model=self._served.settings.model,
            pipeline=self._pipeline,
            statistics=self._statistics, num_received=self._mailbox.num_received,
            num_dropped=self._mailbox.num_dropped, num_repeated=self._intake.num_repeated,
            published=self._pictures.counts if self._pictures is not None else {},
            build=self._build, conflicts=conflicts, deadlines_missed=self._topics.num_missed,
        ))
