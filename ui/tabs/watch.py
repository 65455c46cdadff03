"""The Watch tab: what a run does, read off its events."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from apt_engine.errors import EngineError
from ui.context import AppContext, plain_errors
from ui.plots import duration, gamma_map, loss_plot, progress_line, sample_grid
from ui.story import Story

WELCOME = "Nothing is trained yet. Bring 3 to 10 photos to the Train tab, say what it is, and press Train."
AT_WORK = ("waking", "training")
RESUMABLE = ("stopped", "failed", "interrupted")


@dataclass(frozen=True)
class Watch:
    """What one open page looks at: a run, how far its events were read, and the story they told."""

    run_id: str = ""
    cursor: int = 0
    state: str = ""
    story: Story | None = None


@dataclass(frozen=True)
class WatchView:
    """The tab's components, in the order in which `show` returns their values."""

    sentence: gr.HTML
    progress: gr.HTML
    plot: gr.HTML
    grid: gr.HTML
    stop: gr.Button
    resume: gr.Button
    kohya: gr.DownloadButton
    diffusers: gr.DownloadButton
    watched: gr.State

    @property
    def outputs(self) -> list[Any]:
        """All that changes when the run goes on."""
        return [
            self.watched,
            self.sentence,
            self.progress,
            self.plot,
            self.grid,
            self.stop,
            self.resume,
            self.kohya,
            self.diffusers,
        ]


def build() -> WatchView:
    """Make the components."""
    sentence = gr.HTML(f'<p class="sentence">{WELCOME}</p>', elem_id="sentence")
    progress = gr.HTML(progress_line(0.0, []), elem_id="progress")
    with gr.Row(elem_classes="actions"):
        stop = gr.Button("Stop and keep", visible=False, size="sm", elem_id="stop")
        resume = gr.Button("Resume", variant="primary", visible=False, size="sm", elem_id="resume")
        kohya = gr.DownloadButton("LoRA for ComfyUI, Forge, A1111", visible=False, size="sm", elem_id="kohya")
        diffusers = gr.DownloadButton("LoRA for diffusers", visible=False, size="sm", elem_id="diffusers")
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_classes="card"):
            gr.HTML(
                '<h2 class="title">Loss</h2><p>How far the guess of the noise is off; lower fits the photos better.</p>',
            )
            plot = gr.HTML(loss_plot([], 1), elem_id="loss")
        with gr.Column(scale=6, min_width=320, elem_classes="card"):
            gr.HTML(
                '<h2 class="title">Samples</h2><p>Same prompts, same seeds, before and while it learns.</p>',
            )
            grid = gr.HTML(sample_grid(("your subject",), {}, Path()), elem_id="samples")
    return WatchView(
        sentence=sentence,
        progress=progress,
        plot=plot,
        grid=grid,
        stop=stop,
        resume=resume,
        kohya=kohya,
        diffusers=diffusers,
        watched=gr.State(Watch()),
    )


def connect(view: WatchView, context: AppContext, timer: gr.Timer) -> None:
    """Wire the tab to the timer and its buttons."""
    timer.tick(
        partial(refresh, context),
        view.watched,
        view.outputs,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    view.stop.click(partial(stop, context), None, None, api_visibility="private")
    view.resume.click(
        partial(resume, context), view.watched, view.outputs, show_progress="hidden", api_visibility="private"
    )


def attach(context: AppContext) -> list[Any]:
    """What a page that was just opened looks at: the run that trains, or else the newest."""
    run_id = context.worker.status.run_id or next((run.id for run in context.store.list()), "")
    return open_run(context, run_id)


def open_run(context: AppContext, run_id: str) -> list[Any]:
    """Look at another run from its first event on; the sentence says it when that cannot be."""
    if not run_id:
        return [Watch(), *[gr.skip()] * 8]
    try:
        run = context.store.open(run_id)
        story = Story.of(run.id, run.config, len(run.photo_paths))
    except EngineError as error:
        return [Watch(), f'<p class="sentence failed">{html.escape(str(error))}</p>', *[gr.skip()] * 7]
    return _read_on(context, Watch(run_id, story=story))


def refresh(context: AppContext, watched: Watch) -> Sequence[Any]:
    """Read what is new; nothing is sent to the page when nothing is."""
    if watched.story is None:
        return [gr.skip()] * 9
    return _read_on(context, watched)


def stop(context: AppContext) -> None:
    """Ask the engine to stop after its step and keep what was learnt."""
    context.worker.stop()
    gr.Info("Stopping after this step; what was learnt is kept.")


def resume(context: AppContext, watched: Watch) -> Sequence[Any]:
    """Go on with the run in view."""
    with plain_errors():
        context.worker.start_training(watched.run_id, resume=True)
    return refresh(context, watched)


def _read_on(context: AppContext, watched: Watch) -> list[Any]:
    story = watched.story
    assert story
    events, cursor = context.store.open(watched.run_id).events(watched.cursor)
    story.tell(events)
    state = story.state_under(context.worker.status)
    if not events and state == watched.state:
        return [gr.skip()] * 9
    return [replace(watched, cursor=cursor, state=state), *_show(context, story, state)]


def _show(context: AppContext, story: Story, state: str) -> list[Any]:
    """Values of all components but the state, in the order of `WatchView.outputs`."""
    folder = context.store.open(story.run_id).path
    kind = "sentence failed" if state in ("failed", "interrupted") else "sentence"
    notices = "".join(f'<p class="note">{html.escape(notice)}</p>' for notice in story.notices)
    return [
        f'<p class="{kind}" role="status">{html.escape(story.sentence(state))}</p>{notices}',
        _progress(story, state),
        _charts(story),
        sample_grid(story.prompts, story.samples, folder),
        gr.Button(visible=state in AT_WORK),
        gr.Button(visible=state in RESUMABLE),
        *(
            gr.DownloadButton(visible=layout in story.exports, value=_file(folder, story, layout))
            for layout in ("kohya", "diffusers")
        ),
    ]


def _charts(story: Story) -> str:
    """The loss, and the indicator where the run computes it."""
    charts = loss_plot(story.losses, story.last_step)
    if not story.gammas:
        return charts
    about = "Stronger color: fits your photos far better than the untrained model does. Rows: noise level."
    title = f'<h2 class="title second">Overfitting indicator</h2><p>{about}</p>'
    return f"{charts}{title}{gamma_map(story.gammas, story.last_step)}"


def _progress(story: Story, state: str) -> str:
    # While samples are drawn between two steps the bar stays where it is.
    is_waiting = state == "waking" or (state == "training" and story.stage not in ("", "training", "sampling"))
    fraction = story.fraction if is_waiting else story.step / max(1, story.last_step)
    numbers = [("step", f"{story.step:,}", f"of at most {story.last_step:,}")]
    if story.losses:
        numbers.append(("loss", f"{story.losses[-1][1]:.4f}", ""))
    seconds = story.seconds_per_step
    if seconds and state == "training":
        numbers.append(
            (
                "",
                f"{1 / seconds:.1f}" if seconds < 1 else f"{seconds:.1f} s",
                "steps a second" if seconds < 1 else "a step",
            )
        )
        numbers.append(("about", duration(seconds * (story.last_step - story.step)), "left"))
    return progress_line(fraction, numbers)


def _file(folder: Path, story: Story, layout: str) -> str | None:
    export = story.exports.get(layout)
    return str(folder / export.path) if export else None
