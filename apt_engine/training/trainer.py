"""Training: a run on disk in, a stream of events out.

    RunStarted
      StageChanged         loading the model, encoding the photos, making prior pictures
      DriftMeasured        step 0: not moved yet
      SampleReady ...      step 0: what the base model draws
      StepFinished         each step
        Calibrated         once, when the weights of RS and AA are found
        ViewsShown         every few steps, while photos are re-framed
        DriftMeasured      every `drift_every_steps`
        SplitMeasured      at each check: new views of the photos against the photos, and what that says about stopping
        CheckpointSaved    at each check, and every `save_every_steps`
        CheckpointDropped  those of checks that can no longer be the best
        PromptsChanged     where somebody who watches wished for other samples
        SampleReady ...    every `sample_every_steps`, and where somebody asks for them
      CheckpointSaved      the last step
      SampleReady ...      of the last step, and unless it was stopped of the one that is kept
      ExportReady ...      LoRA files of the kept step for other programs, reloaded and compared
    RunFinished            or an EngineError, after which the run can be resumed from its last checkpoint

A session that is to leave saves the step under way and ends there, with neither pictures, exports nor an end; so does one that
is to pause.

After a step comes first what is measured, then the decision whether to end, then checkpoint and samples: a checkpoint has its
scores behind it. What a session could not make of its last step, the next one makes first; where no step is left it trains no
more, and ends the run.

The trainer writes checkpoints and pictures; whoever consumes the events appends them to the run.
"""

import contextlib
import time
from collections.abc import Callable, Generator

from accelerate.state import AcceleratorState

from apt_engine.apt.stopping import at_last_step
from apt_engine.bases.base import BaseModel
from apt_engine.errors import EngineError, RunError
from apt_engine.lora import files
from apt_engine.runs.events import (
    Calibrated,
    CheckpointDropped,
    CheckpointSaved,
    DriftMeasured,
    Event,
    Noticed,
    PromptsChanged,
    RunFinished,
    RunStarted,
    StageChanged,
    StepFinished,
)
from apt_engine.runs.history import RunSummary
from apt_engine.runs.process_rank import process_count
from apt_engine.runs.resumption import starting_checkpoint
from apt_engine.runs.run import Run
from apt_engine.runs.wishes import take_samples_wish, wished_prompts
from apt_engine.sampling.sampler import Stopped
from apt_engine.training import exports
from apt_engine.training.ending import Ending, LastPictures
from apt_engine.training.memory import forget_peak, peak_memory_bytes, release_memory
from apt_engine.training.pictures import draw_samples
from apt_engine.training.preparation import Loaded, Prepared, load, prepare
from apt_engine.training.pruning import superfluous
from apt_engine.training.update import take_step

NON_FINITE_STEPS_ALLOWED = 3
SHOW_VIEWS_EVERY_STEPS = 10


class Trainer:
    """One session of training: a run from its beginning, or from its newest intact checkpoint.

    Args:
        run: whose photos and config; what is trained goes there.
        should_stop: asked again and again; once true, what was learnt by then is saved and exported.
        should_pause: asked after each step; ends the session too, but as that of a run that goes on in another one: saved, with
            neither exports nor an end.
        is_leaving: asked like `should_stop`; ends the session as a pause does, since the program is about to end.
        should_hurry: whether it was asked to stop twice: the samples of the step it stopped at are left out.
    """

    def __init__(
        self,
        run: Run,
        should_stop: Callable[[], bool] = lambda: False,
        should_pause: Callable[[], bool] = lambda: False,
        is_leaving: Callable[[], bool] = lambda: False,
        should_hurry: Callable[[], bool] = lambda: False,
    ) -> None:
        self._run = run
        self._config = run.config
        self._should_stop = lambda: should_stop() or is_leaving()
        self._is_leaving = is_leaving
        self._should_hurry = lambda: should_hurry() or is_leaving()
        self._should_pause = should_pause
        wanted = self._config.steps_for(len(run.photo_paths))
        self._checkpoint = starting_checkpoint(run, wanted)
        self._first_step = self._checkpoint.step if self._checkpoint else 0
        self._last_step = max(wanted, self._first_step)
        self._check_steps = self._config.check_steps(self._last_step)
        so_far = RunSummary.of(run)
        self._told_step = so_far.saved_step
        self._prompts = so_far.sample_prompts
        self._sampled_step = -1
        self._splits = so_far.splits_until(self._first_step)
        self._drifts = dict(so_far.drifts)
        self._may_end = self._config.stop == "auto" and not so_far.ended_by_itself  # who resumes such a run wants more
        self._base: BaseModel | None = None
        self._started = time.monotonic()

    def run(self) -> Generator[Event, None, None]:
        """Train to the last step, or until it is asked to stop or to pause.

        Raises:
            EngineError: the run cannot go on; its checkpoints are kept.
        """
        self._refuse_if_finished()
        forget_peak()
        yield self._start_event()
        self._refuse_without_photos()
        for event in self._session():
            yield event
            yield from self._notices()

    def _session(self) -> Generator[Event, None, None]:
        try:
            loaded = yield from load(self._config, self._should_stop)
            self._base = loaded.base
            ending = yield from (self._learn(loaded) if self._first_step < self._last_step else self._take_up(loaded))
            yield from self._finish(loaded, ending)
        except Stopped:  # before the first step, or while files were written: what was learnt is saved, if anything was
            ending = self._stopped_at(self._first_step)
            yield _waiting(ending.reason) if ending.kind == "paused" else self._end_event(ending)
        finally:
            if process_count() == 1:  # the next run may need another device or format
                AcceleratorState._reset_state(reset_partial_state=True)

    def _notices(self) -> Generator[Event, None, None]:
        """What the base model had to do otherwise than asked."""
        while self._base and self._base.notices:
            yield Noticed(message=self._base.notices.pop(0))

    def _learn(self, loaded: Loaded) -> Generator[Event, None, Ending]:
        """Prepare, make what is missing of the step to start from, and train."""
        prepared = yield from prepare(self._run, loaded, self._checkpoint, self._last_step)
        drift = yield from self._measure(prepared, self._first_step)
        if drift is not None:  # the session before died too soon to tell it
            self._drifts[self._first_step] = drift
        if prepared.checks:
            prepared.checks.take_up(self._splits, self._drifts)
        if self._first_step and self._told_step != self._first_step:  # the session before died when it had saved it
            yield self._saved(self._first_step)
        if self._is_enough(prepared, self._first_step):  # and had seen that
            return self._enough_at(self._first_step)
        if self._is_sampling_due(self._first_step):
            yield from self._draw_samples(prepared, self._first_step, prepared.stop.obey_alone)
        prepared.stop.obey()
        return (yield from self._loop(prepared))

    def _take_up(self, loaded: Loaded) -> Generator[Event, None, Ending]:
        """Where no step is left: the LoRA of the last one, and its drift if the session before died too soon to tell it."""
        assert self._checkpoint
        step = self._checkpoint.step
        files.load(loaded.base, self._checkpoint.lora_path)
        yield from self._measure(loaded, step)
        yield self._saved(step)
        return self._complete_at(step)

    def _loop(self, prepared: Prepared) -> Generator[Event, None, Ending]:
        """Step after step, until a check ends it; what was learnt is saved then."""
        yield StageChanged(stage="training", message="Learning the photos.")
        step, skipped = self._first_step, 0  # of those skipped how many in a row
        while True:
            step += 1
            event = yield from self._one_step(prepared, step)
            skipped = skipped + 1 if event.was_skipped else 0
            if skipped == 1:
                yield Noticed(message=f"Step {step} gave numbers that are not finite and was skipped.")
            if ending := (yield from self._check(prepared, step, skipped)):
                return ending

    def _one_step(self, prepared: Prepared, step: int) -> Generator[Event, None, StepFinished]:
        """An update of the LoRA, and what it brought to light."""
        weights = prepared.step.loss_weights
        were_unknown = weights.unknown
        event = take_step(prepared, step)
        yield event
        if were_unknown and not weights.unknown:
            lambdas = {f"{name}_lambda": value for name, value in weights.values.items()}
            spreads = {f"{name}_spread": value for name, value in weights.spreads.items()}
            yield Calibrated(step=step, **lambdas, **spreads)
        if step % SHOW_VIEWS_EVERY_STEPS == 0 and prepared.processes.is_first:
            yield from prepared.views.show(step)
        return event

    def _check(self, prepared: Prepared, step: int, skipped: int) -> Generator[Event, None, Ending | None]:
        """After a step: measure, decide, save, sample."""
        drift = yield from self._measure(prepared, step)
        if prepared.checks and step % self._check_steps == 0:
            with prepared.worn():
                self._splits.append(prepared.checks.measure(step, drift))
            yield self._splits[-1]
        ending = self._decide(prepared, step, skipped)
        if ending and ending.kind == "broken":
            return ending
        is_due = step % self._config.save_every_steps == 0 or self._was_checked(step)
        is_saved = ending is not None or is_due
        if is_saved:
            yield self._save(prepared, step)
            yield from self._prune(prepared, step)
        is_asked = prepared.processes.any(prepared.processes.is_first and take_samples_wish(self._run))
        if ending is None and (is_asked or self._is_sampling_due(step)):
            yield from self._draw_samples(prepared, step, LastPictures(prepared.stop, self._should_hurry).obey)
            if prepared.stop.is_heard():
                ending = self._stopped_at(step)
                if not is_saved:
                    yield self._save(prepared, step)
            yield StageChanged(stage="training", message="Learning the photos.")
        return ending

    def _measure(self, loaded: Loaded, step: int) -> Generator[Event, None, float | None]:
        """The drift, where the settings ask for it and it is not known yet; told to all processes, which call it together."""
        every, drift = self._config.drift_every_steps, None
        is_known = self._is_at_checkpoint(step) and RunSummary.of(self._run).has_drift(step)
        if every and step % every == 0 and loaded.processes.is_first and not is_known:
            with contextlib.suppress(Stopped), loaded.worn():
                drift = loaded.drift.measure()
                yield DriftMeasured(step=step, drift=drift)
        return loaded.processes.from_first(drift)

    def _decide(self, prepared: Prepared, step: int, skipped: int) -> Ending | None:
        """How training ends after this step, or None to go on; asked once a step, the same in all processes."""
        is_stopped = prepared.stop.is_heard()
        is_paused = prepared.processes.any(self._should_pause())
        # A loss scaler needs some skipped steps to settle.
        if skipped >= NON_FINITE_STEPS_ALLOWED * (10 if prepared.accelerator.scaler is not None else 1):
            reason = f"Training broke at step {step}: {skipped} steps in a row gave numbers that are not finite; "
            return Ending("broken", step, reason + "lower learning_rate, or set dtype to fp32.")
        if step >= self._last_step:
            return self._complete_at(step)
        if self._is_enough(prepared, step):
            return self._enough_at(step)
        if is_stopped:
            return self._stopped_at(step)
        if is_paused:
            return Ending("paused", step, f"Step {step} is saved; waiting for the next turn.")
        return None

    def _save(self, prepared: Prepared, step: int) -> CheckpointSaved:
        if prepared.processes.is_first:
            self._run.save_checkpoint(step, prepared.write)
        return self._saved(step)

    def _prune(self, prepared: Prepared, step: int) -> Generator[Event, None, None]:
        """After a check: let go of other checks' checkpoints that nobody needs any more; told first, so that none is missed."""
        if not prepared.processes.is_first or not prepared.checks or not self._was_checked(step):
            return
        for dropped in superfluous(self._run, self._splits, prepared.checks.choosable):
            yield CheckpointDropped(step=dropped)
            self._run.drop_checkpoint(dropped)

    def _draw_samples(
        self, loaded: Loaded, step: int, obey_stop: Callable[[float], None]
    ) -> Generator[Event, None, None]:
        """The samples of a step, of the prompts that are wished for now; those that are there of the very weights stay."""
        if not loaded.processes.is_first:
            return
        wished = wished_prompts(self._run) or self._prompts
        if wished != self._prompts:
            self._prompts = wished
            yield PromptsChanged(step=step, prompts=wished)
        is_there = self._is_at_checkpoint(step) or step in (self._kept_step, self._sampled_step)
        there = RunSummary.of(self._run).drawn_samples(step) if is_there else set[int]()
        self._sampled_step = step
        with loaded.worn():
            yield from draw_samples(self._run, loaded.base, step, wished, there, obey_stop)

    def _finish(self, loaded: Loaded, ending: Ending) -> Generator[Event, None, None]:
        """What follows from how the loop ended."""
        match ending.kind:
            case "broken":
                raise EngineError(ending.reason)
            case "paused":
                yield _waiting(ending.reason)
            case "complete" | "enough" | "stopped":
                steps = list(dict.fromkeys((ending.step, self._kept_step or ending.step)))
                for step in steps:
                    if loaded.processes.is_first:  # from its file: the mean over the steps, where that is wished
                        files.load_weights(loaded.base, self._run.checkpoint(str(step)).lora_path)
                    if ending.kind != "stopped":
                        yield from self._draw_samples(loaded, step, loaded.stop.obey_alone)
                    elif step == ending.step:
                        yield from self._draw_samples(loaded, step, LastPictures(loaded.stop, self._should_hurry).obey)
                take_samples_wish(self._run)  # one that came too late is answered by these
                yield from self._export(loaded, steps[-1])
                yield self._end_event(ending)

    def _export(self, loaded: Loaded, step: int) -> Generator[Event, None, None]:
        if loaded.processes.is_first:
            message = "Writing the LoRA files and checking that they draw the same picture."
            yield StageChanged(stage="exporting", message=message)
            release_memory()  # of the steps, optimizer included
            yield from exports.export_and_verify(self._run, loaded.base, step, on_step=self._obey_leaving)

    def _obey_leaving(self, _fraction: float = 0.0) -> None:
        if self._is_leaving():
            raise Stopped("Stopped, as asked.")

    @property
    def _kept_step(self) -> int:
        """The checkpoint to use; 0 for the last."""
        return self._splits[-1].kept_step if self._splits else 0

    def _was_checked(self, step: int) -> bool:
        return bool(self._splits) and self._splits[-1].step == step

    def _is_enough(self, prepared: Prepared, step: int) -> bool:
        """Whether the check of a step says that from here it only memorizes, and the run may end by that."""
        return (
            self._may_end
            and self._was_checked(step)
            and prepared.checks is not None
            and prepared.checks.standing.is_over
        )

    def _refuse_if_finished(self) -> None:
        if self._first_step >= self._last_step and RunSummary.of(self._run).state == "finished":
            raise RunError(f"Run {self._run.id} is already at step {self._first_step}; give it more steps to go on.")

    def _refuse_without_photos(self) -> None:
        if self._first_step < self._last_step and not self._run.photo_paths:
            raise RunError(
                f"The photos of run {self._run.id} are gone; put them back into its folder, or train it anew."
            )

    def _is_sampling_due(self, step: int) -> bool:
        """Before the first step, and then every so many; those of the last step come when training has ended."""
        every = self._config.sample_every_steps
        return step == 0 or (every > 0 and step % every == 0)

    def _is_at_checkpoint(self, step: int) -> bool:
        """Whether nothing was trained since the checkpoint this session started from."""
        return self._checkpoint is not None and self._checkpoint.step == step

    def _complete_at(self, step: int) -> Ending:
        return Ending("complete", step, " ".join([f"All {step} steps are done.", *map(at_last_step, self._verdict())]))

    def _enough_at(self, step: int) -> Ending:
        return Ending("enough", step, " ".join(self._verdict()))

    def _verdict(self) -> list[str]:
        return [self._splits[-1].message] if self._splits else []

    def _stopped_at(self, step: int) -> Ending:
        where = f"at step {step} of {self._last_step}" if step else "before the first step"
        if self._is_leaving():
            return Ending("paused", step, f"Interrupted {where}; resume the run to go on.")
        return Ending("stopped", step, f"Stopped {where}, as asked.")

    def _saved(self, step: int) -> CheckpointSaved:
        return CheckpointSaved(step=step, path=f"checkpoints/{step:06d}")

    def _start_event(self) -> RunStarted:
        return RunStarted(
            run=self._run.id,
            base=self._config.base,
            subject=self._config.subject,
            photo_count=len(self._run.photo_paths),
            first_step=self._first_step,
            last_step=self._last_step,
        )

    def _end_event(self, ending: Ending) -> RunFinished:
        return RunFinished(
            step=ending.step,
            reason=ending.reason,
            is_complete=ending.kind != "stopped",
            is_by_itself=ending.kind == "enough",
            seconds=time.monotonic() - self._started,
            peak_memory_bytes=peak_memory_bytes(),
        )


def _waiting(reason: str) -> StageChanged:
    """The last word of a session that another one goes on from."""
    return StageChanged(stage="waiting", message=reason)
