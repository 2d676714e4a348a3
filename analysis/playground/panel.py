"""The widgets of notebook 10, which show a pair of videos (see analysis/playground/steered_pair.py)."""

from __future__ import annotations

import functools
import html
import io

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from testbed.world import COLOURS, DIRECTIONS, EVENTS, MAX_OBJECTS, SHAPES, SIZE, Scene, caption, generator

from ..study.parameters import Parameters
from .pictures import animation, attention_figure, strips_figure
from .scenes import PLACES, benchmark_sample, build_event, build_scene, reference, sample_names
from .steered_pair import DRAWN, Request, backbones, run_pair

# The switches of the panel: label, the method of params.yaml that gives the settings, and the settings with a control:
# (lowest, highest, step) of a slider, or the choices of a list.
METHODS = {
    "AlignVid": ("alignvid", {"gamma": (0.0, 4.0, 0.05), "window": ("early", "middle", "late", "all"),
                              "blocks": ("calibrated", "first_half", "all")}),
    "DyMoS": ("dymos-1", {"gamma": (-4.0, 4.0, 0.1), "window": (0.0, 1.0, 0.1)}),
    "low-pass guidance": ("alg", {"factor": (0.1, 1.0, 0.1), "window": (0.0, 1.0, 0.1)}),
    "Focal Guidance": ("focal-full", {"text": (0.0, 3.0, 0.1), "latent": (0.0, 3.0, 0.1), "cache": (0.0, 3.0, 0.1)}),
}  # fmt: skip
PLACED = (("red", "circle", 18, 18), ("blue", "square", 46, 44), ("green", "triangle", 18, 48))
NARROW, WIDE = widgets.Layout(width="200px"), widgets.Layout(width="320px")
VERMILION = "#D55E00"  # of the figures' palette


def row(children: list[widgets.Widget]) -> widgets.HBox:
    """Widgets side by side, in several lines where the page is narrow."""
    return widgets.HBox(children, layout=widgets.Layout(flex_flow="row wrap"))


def png(figure) -> bytes:
    """The figure as PNG; it is closed."""
    out = io.BytesIO()
    figure.savefig(out, format="png")
    plt.close(figure)
    return out.getvalue()


def control(name: str, allowed: tuple, value) -> widgets.Widget:
    """A slider for (lowest, highest, step), with two ends for a window of two; else a list."""
    if isinstance(allowed[0], str):
        return widgets.Dropdown(options=allowed, value=value, description=name, layout=NARROW)
    low, high, step = allowed
    kind, value = (widgets.FloatRangeSlider, value[-2:]) if isinstance(value, list) else (widgets.FloatSlider, value)
    return kind(value=value, min=low, max=high, step=step, description=name, layout=WIDE)


def with_controls(given: dict, controls: dict[str, widgets.Widget]) -> dict:
    """The settings that are given, with what the controls say; the ends of a window stay in its own unit."""
    said = {name: control.value for name, control in controls.items()}
    return given | {name: [*given[name][:-2], *v] if isinstance(v, tuple) else v for name, v in said.items()}


class Panel:
    """The widgets; `view` shows them all. An error is one line in `message` and leaves the rest as it was; `pair` is the
    last pair of videos."""

    def __init__(self, parameters: Parameters, sample: str):
        self.parameters, self.pair, self.busy = parameters, None, False
        choose = functools.partial(widgets.Dropdown, layout=NARROW)
        self.source = choose(options=[DRAWN, *sample_names()], value=sample, description="scene")
        self.count = widgets.IntSlider(2, min=1, max=MAX_OBJECTS, description="shapes")
        self.texture = widgets.IntSlider(0, min=0, max=99, description="background")
        place = functools.partial(widgets.IntSlider, min=PLACES[0], max=PLACES[1])
        self.shapes = [
            (choose(options=list(COLOURS), value=colour), choose(options=SHAPES, value=shape),
             place(x, description="from left"), place(y, description="from top"))
            for colour, shape, x, y in PLACED
        ]  # fmt: skip
        self.event = choose(options=EVENTS, description="event")
        self.subject = choose(description="shape")
        self.colour = choose(options=list(COLOURS), description="new colour")
        self.shape = choose(options=SHAPES, description="new shape")
        self.direction = choose(options=list(DIRECTIONS), description="direction")
        self.prompt = widgets.Text(description="prompt", layout=widgets.Layout(width="700px"))
        names = backbones(parameters)
        self.backbone = choose(options=names, description="backbone")
        self.guidance = widgets.FloatSlider(1.0, min=1.0, max=10.0, step=0.5, description="guidance", layout=WIDE)
        self.seed = widgets.IntText(0, description="seed", layout=NARROW)
        self.methods = {
            label: (
                widgets.Checkbox(label == "AlignVid", description=label, indent=False, layout=NARROW),
                {
                    n: control(n, allowed, parameters.methods[method][0].get(n, allowed[0]))
                    for n, allowed in own.items()
                },
            )
            for label, (method, own) in METHODS.items()
            if method in parameters.methods
        }
        self.button = widgets.Button(description="Run", button_style="primary")
        self.progress, self.message = widgets.Label(), widgets.HTML()
        self.picture = widgets.Image(format="png", width=2 * SIZE, height=2 * SIZE)
        self.results = widgets.VBox()
        self.view = self.arranged()
        for control_of_scene in (self.source, self.count, self.texture, *(w for shape in self.shapes for w in shape)):
            control_of_scene.observe(lambda _: self.guarded(self.draw), "value")
        for control_of_event in (self.event, self.subject, self.colour, self.shape, self.direction):
            control_of_event.observe(lambda _: self.guarded(self.write_prompt), "value")
        self.button.on_click(lambda _: self.guarded(self.run))
        self.guarded(self.draw)

    def arranged(self) -> widgets.VBox:
        """All widgets in their places."""
        self.own = widgets.VBox([row([self.count, self.texture]), *(row(list(s)) for s in self.shapes)])
        return widgets.VBox([
            row([widgets.VBox([self.source, self.own]), self.picture]),
            row([self.event, self.subject, self.colour, self.shape, self.direction]),
            self.prompt,
            row([self.backbone, self.guidance, self.seed]),
            *(row([switch, *own.values()]) for switch, own in self.methods.values()),
            row([self.button, self.progress]), self.message, self.results,
        ])  # fmt: skip

    def guarded(self, action) -> None:
        """Run a callback; whatever goes wrong becomes one line. What the callback sets triggers no other one."""
        if self.busy:
            return
        self.busy, self.button.disabled, self.message.value = True, True, ""
        try:
            action()
        except Exception as error:  # a traceback would tell a user of the panel less
            known = isinstance(error, (ValueError, FileNotFoundError))
            text = str(error) if known else f"{type(error).__name__}: {error}"
            self.message.value = f'<b style="color:{VERMILION}">{html.escape(" ".join(text.split()))}</b>'
        finally:
            self.busy, self.button.disabled, self.progress.value = False, False, ""

    def scene(self) -> Scene:
        """The scene that the widgets say. Raises ValueError for what the world never shows."""
        if self.source.value == DRAWN:
            placed = [tuple(w.value for w in shape) for shape in self.shapes[: self.count.value]]
            return build_scene(placed, self.texture.value)
        return benchmark_sample(self.parameters, self.source.value)[1]

    def draw(self) -> None:
        """The scene changed: show it, and write its prompt."""
        drawn = self.source.value == DRAWN
        self.own.layout.display = "" if drawn else "none"
        for i, line in enumerate(self.own.children[1:]):
            line.layout.display = "" if i < self.count.value else "none"
        scene = self.scene()
        self.picture.value = enlarged(reference(scene))
        offer(self.subject, [o.name for o in scene.objects])
        offer(self.colour, [c for c in COLOURS if c not in {o.colour for o in scene.objects}])
        if drawn:
            self.write_prompt()
            return
        record, _, event = benchmark_sample(self.parameters, self.source.value)
        self.event.value = event.kind
        if event.target is not None:
            self.subject.value = scene.objects[event.target].name
        if event.kind in ("appear", "recolour"):
            self.colour.value, self.shape.value = event.result.colour, event.result.shape
        self.direction.value = event.direction or self.direction.value
        self.prompt.value = record["prompt"]

    def write_prompt(self) -> None:
        """The event changed: say it in the grammar's words."""
        words = dict(subject=self.subject.value, colour=self.colour.value, shape=self.shape.value)
        scene = self.scene()
        event = build_event(scene, self.event.value, **words, direction=self.direction.value)
        self.prompt.value = caption(scene, event, generator("playground"))

    def request(self) -> Request:
        """What the widgets say."""
        steering = [
            with_controls(self.parameters.methods[METHODS[label][0]][0], own)
            for label, (switch, own) in self.methods.items()
            if switch.value
        ]
        scene, prompt, name, questions = self.scene(), self.prompt.value, self.source.value, None
        if name != DRAWN and prompt == (record := benchmark_sample(self.parameters, name)[0])["prompt"]:
            questions = record["questions"]
        return Request(
            scene, prompt, steering, name, self.backbone.value, self.guidance.value, self.seed.value, questions
        )

    def run(self) -> None:
        """Make the pair and show it; the last one stays until then."""
        self.pair = run_pair(self.parameters, self.request(), say=self.say, earlier=self.pair)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in (self.pair.told, *self.pair.notes))
        asked = self.pair.answers.to_html(index=False) if len(self.pair.answers) else ""
        self.results.children = [
            widgets.Image(value=png(strips_figure(self.pair)), format="png"),
            widgets.Image(value=animation(self.pair), format="gif"),
            widgets.HTML(asked + notes),
            widgets.Image(value=png(attention_figure(self.pair)), format="png"),
        ]

    def say(self, text: str) -> None:
        self.progress.value = text


def offer(choice: widgets.Dropdown, options: list[str]) -> None:
    """Change the options of a list and keep its value where it is still one of them."""
    kept = choice.value
    choice.options = options
    if kept in options:
        choice.value = kept


def enlarged(image: np.ndarray) -> bytes:
    """A uint8 (H, W, 3) image as PNG, twice as large."""
    out = io.BytesIO()
    Image.fromarray(image).resize((2 * SIZE, 2 * SIZE), Image.NEAREST).save(out, "PNG")
    return out.getvalue()
