"""Every claim of R1 to R5 (PROTOCOLS.md), with the rule that judges it. Verdicts: ledger.py."""

from dataclasses import dataclass
from itertools import combinations

from labreport.science.evidence import Rule, all_of, any_of, negate
from labreport.science.rules import (
    as_well_as,
    at_most,
    better,
    clearly_worse,
    comes_back,
    falls_steadily,
    gains_more,
    has_not_converged,
    levelled_off,
    takes_longer,
    tracks,
)
from labreport.science.sources import R2_CIFAR10, R2_MNIST


@dataclass(frozen=True)
class Claim:
    """What a source says, what is measured for it, and the rule that judges it.

    beside: a rule shown beside it and not judged, and what it is about.
    elsewhere: the setting that the source speaks of, where no profile of ours has it.
    """

    id: str
    text: str
    quantity: str
    rule: Rule
    beside: tuple[str, Rule] | None = None
    elsewhere: str = ""

    @property
    def source(self) -> str:
        return self.id.partition(".")[0]

    @property
    def keys(self) -> tuple[str, ...]:
        """Measures and series of the results JSON that the rule reads."""
        return self.rule.keys

    @property
    def datasets(self) -> tuple[str, ...]:
        """Where it may be judged, first choice first: R3 to R5 name no data set, so MNIST too."""
        if self.source in ("R3", "R4", "R5"):
            return "cifar10", "mnist"
        return ("cifar10",) if self.keys[0].startswith("cifar.") else ("mnist",)


def _accuracies(family: str, names: str) -> list[str]:
    return [f"{family}.{name}.linear" for name in names.split()]


_BASIC, _COLOR, _GRAY, _STRONG = _VIEWS = _accuracies("cifar.aug", "basic color gray strong")
_HEADS = _accuracies("cifar.head", "mlp_bn mlp_no_bn linear none")
_MLP_BN, _, _LINEAR, _NONE = _HEADS
_ONE = ("crop", "flip", "jitter", "grayscale", "blur")
_TWO = ("_".join(pair) for pair in combinations(_ONE, 2))
_COMPOSED = _accuracies("cifar.compose", " ".join((*_ONE, *_TWO)))
_CROP, _JITTER, _BOTH = _accuracies("cifar.compose", "crop jitter crop_jitter")
_USEFUL = _accuracies("cifar.temperature", "t0_1 t0_2 t0_5")
_COLD, _HOT = _accuracies("cifar.temperature", "t0_05 t1")
_BATCHES = _accuracies("cifar.batch", "64 128 256")
_R2, _R2_HIDDEN = "cifar.r2", "mnist.r2.hidden"
_SHORT, _LONG = R2_CIFAR10["classifier_epochs"]


def _differ(keys: list[str]) -> Rule:
    """Some two of the conditions lie more than 1 point apart."""
    return any_of(*(negate(as_well_as(a, b)) for a, b in combinations(keys, 2)))


def _best(key: str, keys: list[str]) -> Rule:
    return all_of(*(better(key, other) for other in keys if other != key))


def _gain(sizes: tuple[str, str]) -> Rule:
    kinds = ("simclr", "supervised")
    return gains_more(*(f"cifar.gain.{kind}.{size}" for kind in kinds for size in sizes))


_R1 = (
    Claim("R1.1", "The pre-training loss falls steadily in all eight runs.",
          "pre-training loss per epoch of each augmentation and each head",
          all_of(*(falls_steadily(k.removesuffix("linear") + "loss") for k in (*_VIEWS, *_HEADS)))),
    Claim("R1.2", "Colour jitter or grayscale brings no significant gain over basic views.",
          "linear-evaluation accuracy, color and gray against basic",
          all_of(as_well_as(_COLOR, _BASIC), as_well_as(_GRAY, _BASIC))),
    Claim("R1.3", "The strong augmentation is not necessarily the best.",
          "linear-evaluation accuracy, strong against each other augmentation",
          any_of(*(negate(better(_STRONG, other)) for other in (_BASIC, _COLOR, _GRAY)))),
    Claim("R1.4", "The MLP head with batch normalisation is the best.",
          "linear-evaluation accuracy, mlp_bn against each other head", _best(_MLP_BN, _HEADS)),
    Claim("R1.5", "A linear head, and no head, are clearly worse.",
          "linear-evaluation accuracy, linear and none against mlp_bn",
          all_of(clearly_worse(_LINEAR, _MLP_BN), clearly_worse(_NONE, _MLP_BN))),
    Claim("R1.6", "Augmentation and head both affect the final accuracy markedly.",
          "linear-evaluation accuracy: do two augmentations, and two heads, lie over 1 point apart",
          all_of(_differ(_VIEWS), _differ(_HEADS))),
)  # fmt: skip

_R2_MNIST = (
    Claim("R2.1", "95.27 % test accuracy on MNIST from 6,000 labels.",
          "test accuracy of R2's recipe, classifier with one hidden layer, 6,000 labels",
          comes_back(f"{_R2_HIDDEN}.1part", R2_MNIST["test_accuracy"])),
    Claim("R2.2", "97 % with 12,000 labels.", "the same with 12,000 labels",
          comes_back(f"{_R2_HIDDEN}.2parts", R2_MNIST["accuracy_two_parts"])),
    Claim("R2.3", "6 or 8 pre-training epochs do about as well as 10.",
          "test accuracy after 6 and 8 epochs against 10 epochs of the same run",
          all_of(*(as_well_as(f"{_R2_HIDDEN}.epoch{e}", f"{_R2_HIDDEN}.epoch10") for e in (6, 8)))),
    Claim("R2.4", "SimCLR and a classifier reach 95 %; k-means and the Gaussian mixture stay at "
          "70 % or less.", "test accuracy as for R2.1; Hungarian accuracy of the clusterings on "
          "pixels", all_of(comes_back(f"{_R2_HIDDEN}.1part", R2_MNIST["classifier_at_least"]),
          *(at_most(f"clusters.{method}.pixels.accuracy", R2_MNIST["clustering_at_most"])
            for method in ("kmeans", "gmm"))),
          ("with a linear classifier",
           comes_back("mnist.r2.linear.1part", R2_MNIST["classifier_at_least"]))),
    Claim("R2.5", "Pre-training dominates the time; the clustering baselines are faster.",
          "seconds of pre-training against the classifier's and each clustering's on pixels, on "
          "one machine, whose other load varies them as the seed does",
          all_of(*(takes_longer("mnist.seconds.pretrain", other) for other in (
              "mnist.seconds.classifier", "clusters.kmeans.pixels.seconds",
              "clusters.gmm.pixels.seconds")))),
)  # fmt: skip

_R2_CIFAR = (
    Claim("R2.6", "CIFAR-10: 47.3 % with batch 128 (30 classifier epochs); a larger pre-training "
          "batch helps: 50.0 % with batch 512 (50 classifier epochs).",
          "test accuracy of R2's recipe: batch 128 and 512, each with 30 and 50 classifier epochs",
          all_of(*(comes_back(f"{_R2}.{key}", R2_CIFAR10[key]) for key in (
              "batch128.classifier30", "batch512.classifier50")),
              *(better(f"{_R2}.batch512.classifier{e}", f"{_R2}.batch128.classifier{e}")
                for e in (_SHORT, _LONG)))),
    Claim("R2.7", "A deeper encoder helps: ResNet-34 reaches 51 %; ResNet-50 may reach 70 %.",
          "test accuracy of R2's recipe with ResNet-34 and -50, and ResNet-34 against ResNet-18",
          all_of(better(f"{_R2}.resnet34.classifier50", f"{_R2}.resnet18.classifier50"),
                 *(comes_back(f"{_R2}.{encoder}.classifier50", R2_CIFAR10[encoder])
                   for encoder in ("resnet34", "resnet50")))),
    Claim("R2.8", "The pre-training loss has not converged on CIFAR-10 after 10 epochs.",
          "pre-training loss per epoch of R2's recipe, batch 128",
          has_not_converged(f"{_R2}.batch128.loss", R2_CIFAR10["pretrain_epochs"])),
    Claim("R2.9", "MNIST: pre-training levels off near epoch 9, the classifier near epoch 28.",
          "pre-training loss and training loss of the classifier per epoch",
          all_of(*(levelled_off(f"mnist.r2.{loss}", R2_MNIST[epoch], len(R2_MNIST[loss]))
                   for loss, epoch in (("loss", "level_epoch"),
                                       ("classifier_loss", "classifier_level_epoch"))))),
    Claim("R2.10", "CIFAR-10: the classifier has not converged after 30 epochs, nor after 50.",
          "training loss of R2's classifier per epoch",
          all_of(*(has_not_converged(f"{_R2}.batch128.classifier_loss", epoch)
                   for epoch in (_SHORT, _LONG)))),
    Claim("R2.11", "With few labels and many unlabelled images, pre-training raises accuracy.",
          "test accuracy from 6,000 labels under one classifier: R2's recipe against the same "
          "network trained on the labels alone, and against an untrained encoder",
          all_of(*(better(f"{_R2_HIDDEN}.1part", f"mnist.{other}.1part")
                   for other in ("supervised", "random.hidden")))),
)  # fmt: skip

_R3 = (
    Claim("R3.1", "The composition of augmentations decides how good the representation is.",
          "linear-evaluation accuracy, crop alone and colour jitter alone against both together",
          all_of(clearly_worse(_CROP, _BOTH), clearly_worse(_JITTER, _BOTH))),
    Claim("R3.2", "A learnable nonlinear map between representation and loss helps much.",
          "linear-evaluation accuracy, linear head and no head against mlp_bn",
          all_of(clearly_worse(_LINEAR, _MLP_BN), clearly_worse(_NONE, _MLP_BN))),
    Claim("R3.3", "Contrastive learning gains more from larger batches and more steps than "
          "supervised learning.", "gain in test accuracy from batch 64 to 1,024 and from 10 to 100 "
          "epochs, SimCLR against supervised",
          all_of(_gain(("batch1024", "batch64")), _gain(("epochs100", "epochs10")))),
)  # fmt: skip

_R4 = (
    Claim("R4.1", "Linear-evaluation accuracy tracks the quality of the representation.",
          "linear-evaluation accuracy and fine-tuning on 1 % of the labels, encoder by encoder",
          tracks("cifar.few_labels.encoders.linear", "cifar.few_labels.encoders.finetuned")),
    Claim("R4.2", "Fine-tuned on 1 % of the labels, accuracy stays far below a linear classifier "
          "with all labels (ImageNet: 50-odd beside 76.5 %).",
          "test accuracy, fine-tuned on 1 % of the labels against linear evaluation on all",
          clearly_worse("cifar.few_labels.finetune.1percent", "cifar.few_labels.linear.100percent"),
          elsewhere="ImageNet"),
)  # fmt: skip

_R5 = (
    Claim("R5.1", "Crop combined with colour distortion contributes most.",
          "linear-evaluation accuracy, crop + colour jitter against every other transform and pair",
          _best(_BOTH, _COMPOSED)),
    Claim("R5.2", "A linear classifier does better on h, before the head, than on z.",
          "test accuracy of the linear probe on h against z, head mlp_bn",
          better("cifar.head.mlp_bn.probe.h", "cifar.head.mlp_bn.probe.z")),
    Claim("R5.3", "The temperature matters; 0.1 to 0.5 is the useful range.",
          "linear-evaluation accuracy: one of 0.1, 0.2, 0.5 beats 0.05, and one beats 1",
          all_of(*(any_of(*(better(inside, other) for inside in _USEFUL))
                   for other in (_COLD, _HOT)))),
    Claim("R5.4", "A batch of 256 or more is crucial.",
          "linear-evaluation accuracy at batch 64 and 128 against 256",
          all_of(*(clearly_worse(batch, _BATCHES[-1]) for batch in _BATCHES[:-1]))),
)  # fmt: skip

CLAIMS: tuple[Claim, ...] = (*_R1, *_R2_MNIST, *_R2_CIFAR, *_R3, *_R4, *_R5)
