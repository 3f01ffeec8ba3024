"""For a person at a notebook: a progress bar and a loss curve that grow while a run trains."""

import base64
import io
from html import escape

from IPython.display import HTML, display

from labreport.notebook.figures import loss_curves
from labreport.text import in_words


class LiveCurve:
    """A progress callback for labreport.store.pretrain; one output a run, replaced after each epoch."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.handle = None

    def __call__(self, event: dict) -> None:
        self.losses.append(event["loss"])
        view = HTML(self._html(event))
        if self.handle is None:
            self.handle = display(view, display_id=True)
        else:
            self.handle.update(view)

    def _html(self, event: dict) -> str:
        epochs = range(event["epoch"] - len(self.losses) + 1, event["epoch"] + 1)  # a resumed run starts later
        figure = loss_curves({event["run"]: self.losses}, epochs=epochs)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=100)
        left = in_words(event["seconds_left"])
        return (
            f"<p>{escape(event['run'])}: epoch {event['epoch']} of {event['epochs']}, "
            f"loss {event['loss']:.3f}, {left} to go<br>"
            f"<progress value='{event['epoch']}' max='{event['epochs']}' style='width:30em'></progress></p>"
            f"<img alt='pre-training loss so far' src='data:image/png;base64,"
            f"{base64.b64encode(picture.getvalue()).decode()}'>"
        )
