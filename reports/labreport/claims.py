"""Every claim of R1 to R5 (PROTOCOLS.md), with the rule that judges it, and the ledger of verdicts.

Keys of notebooks that this report does not have yet are the ones those notebooks are to write.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from labreport.rules import (
    FAILS,
    HOLDS,
    MIN_SEEDS,
    UNDECIDED,
    Evidence,
    Finding,
    Rule,
    above_zero,
    all_of,
    any_of,
    as_well_as,
    at_most,
    better,
    clearly_worse,
    comes_back,
    falls_steadily,
    gains_more,
    levelled_off,
    negate,
    takes_longer,
)
from labreport.statistics import count_seeds

MNIST, CLUSTERING = "01_mnist_study", "05_clustering_baseline"
CIFAR, AUGMENTATION, HEAD = "02_cifar_study", "03_augmentation_ablation", "04_head_ablation"
SWEEPS, FEW_LABELS = "06_temperature_batch_epochs", "08_few_labels"


@dataclass(frozen=True)
class Claim:
    """What a source says, where it is measured, and by which rule it is judged."""

    id: str
    text: str
    quantity: str
    dataset: str
    notebooks: tuple[str, ...]
    rule: Rule

    @property
    def source(self) -> str:
        return self.id.partition(".")[0]

    @property
    def keys(self) -> tuple[str, ...]:
        """Measures and series of the results JSON that the rule reads."""
        return self.rule.keys


@dataclass(frozen=True)
class Verdict:
    """A claim judged. `points_to`: where too few seeds lean; `figures`: labels of all that show what was measured."""

    claim: Claim
    verdict: str
    measured: str
    points_to: str
    figures: tuple[str, ...]
    reason: str


# ---- families of keys -------------------------------------------------------------------------------------


def _accuracies(family: str, names: str) -> list[str]:
    return [f"{family}.{name}.linear" for name in names.split()]


_BASIC, _COLOR, _GRAY, _STRONG = _AUGMENTATIONS = _accuracies("cifar.aug", "basic color gray strong")
_MLP_BN, _MLP_NO_BN, _LINEAR, _NONE = _HEADS = _accuracies("cifar.head", "mlp_bn mlp_no_bn linear none")
_TRANSFORMS = ("crop", "flip", "jitter", "grayscale", "blur")
_COMPOSITIONS = _accuracies(
    "cifar.compose", " ".join([*_TRANSFORMS, *("_".join(pair) for pair in combinations(_TRANSFORMS, 2))])
)
_CROP, _JITTER, _CROP_JITTER = _accuracies("cifar.compose", "crop jitter crop_jitter")
_USEFUL_TEMPERATURES = _accuracies("cifar.temperature", "t0_1 t0_2 t0_5")
_OTHER_TEMPERATURES = _accuracies("cifar.temperature", "t0_05 t1")
_BATCH_64, _BATCH_128, _BATCH_256 = _accuracies("cifar.batch", "64 128 256")
_R2 = "cifar.r2"


def _differ(keys: list[str]) -> Rule:
    """Some two of the conditions lie more than 1 point apart."""
    return any_of(*(negate(as_well_as(a, b)) for a, b in combinations(keys, 2)))


def _best(key: str, keys: list[str]) -> Rule:
    return all_of(*(better(key, other) for other in keys if other != key))


# ---- the claims -------------------------------------------------------------------------------------------

_R1 = (
    Claim(
        "R1.1",
        "The pre-training loss falls steadily in all eight runs.",
        "pre-training loss per epoch of each augmentation and each head",
        "cifar10",
        (AUGMENTATION, HEAD),
        all_of(*(falls_steadily(key.removesuffix(".linear") + ".loss") for key in (*_AUGMENTATIONS, *_HEADS))),
    ),
    Claim(
        "R1.2",
        "Colour jitter or grayscale brings no significant gain over the basic augmentation.",
        "linear-evaluation accuracy, color and gray against basic",
        "cifar10",
        (AUGMENTATION,),
        all_of(as_well_as(_COLOR, _BASIC), as_well_as(_GRAY, _BASIC)),
    ),
    Claim(
        "R1.3",
        "The strong augmentation is not necessarily the best.",
        "linear-evaluation accuracy, strong against each other augmentation",
        "cifar10",
        (AUGMENTATION,),
        any_of(*(negate(better(_STRONG, other)) for other in _AUGMENTATIONS if other != _STRONG)),
    ),
    Claim(
        "R1.4",
        "The MLP head with batch normalisation is the best.",
        "linear-evaluation accuracy, mlp_bn against each other head",
        "cifar10",
        (HEAD,),
        _best(_MLP_BN, _HEADS),
    ),
    Claim(
        "R1.5",
        "A linear head, and no head, are clearly worse.",
        "linear-evaluation accuracy, linear and none against mlp_bn",
        "cifar10",
        (HEAD,),
        all_of(clearly_worse(_LINEAR, _MLP_BN), clearly_worse(_NONE, _MLP_BN)),
    ),
    Claim(
        "R1.6",
        "Augmentation and head both affect the final accuracy markedly.",
        "linear-evaluation accuracy: do two augmentations, and two heads, lie more than 1 point apart",
        "cifar10",
        (AUGMENTATION, HEAD),
        all_of(_differ(_AUGMENTATIONS), _differ(_HEADS)),
    ),
)

_R2_MNIST = (
    Claim(
        "R2.1",
        "95 % test accuracy on MNIST from 6,000 labels.",
        "test accuracy of R2's recipe, classifier with one hidden layer, 6,000 labels",
        "mnist",
        (MNIST,),
        comes_back("mnist.r2.hidden.1part", 0.95),
    ),
    Claim(
        "R2.2",
        "97 % with 12,000 labels.",
        "test accuracy of R2's recipe, classifier with one hidden layer, 12,000 labels",
        "mnist",
        (MNIST,),
        comes_back("mnist.r2.hidden.2parts", 0.97),
    ),
    Claim(
        "R2.3",
        "6 or 8 pre-training epochs do about as well as 10.",
        "test accuracy after 6 and 8 epochs against 10 epochs of the same run",
        "mnist",
        (MNIST,),
        all_of(*(as_well_as(f"mnist.r2.hidden.epoch{epoch}", "mnist.r2.hidden.epoch10") for epoch in (6, 8))),
    ),
    Claim(
        "R2.4",
        "SimCLR and a linear classifier reach 95 %; k-means and the Gaussian mixture stay at 70 % or less.",
        "test accuracy of R2's recipe with a linear classifier on 6,000 labels; Hungarian accuracy on pixels",
        "mnist",
        (MNIST, CLUSTERING),
        all_of(
            comes_back("mnist.r2.linear.1part", 0.95),
            at_most("clusters.kmeans.pixels.accuracy", 0.70),
            at_most("clusters.gmm.pixels.accuracy", 0.70),
        ),
    ),
    Claim(
        "R2.5",
        "Pre-training dominates the time; the clustering baselines are faster.",
        "seconds of pre-training against the classifier's and against each clustering on pixels, on one machine, whose "
        "other load varies them as the seed does",
        "mnist",
        (MNIST, CLUSTERING),
        all_of(
            takes_longer("mnist.seconds.pretrain", "mnist.seconds.classifier"),
            takes_longer("mnist.seconds.pretrain", "clusters.kmeans.pixels.seconds"),
            takes_longer("mnist.seconds.pretrain", "clusters.gmm.pixels.seconds"),
        ),
    ),
)

_R2_CIFAR = (
    Claim(
        "R2.6",
        "CIFAR-10: 47.3 % with batch 128 (30 classifier epochs); a larger pre-training batch helps: "
        "50.0 % with batch 512 (50 classifier epochs).",
        "test accuracy of R2's recipe: batch 128 and 512, each with 30 and 50 classifier epochs",
        "cifar10",
        (CIFAR,),
        all_of(
            comes_back(f"{_R2}.batch128.classifier30", 0.473),
            comes_back(f"{_R2}.batch512.classifier50", 0.500),
            *(
                better(f"{_R2}.batch512.{epochs}", f"{_R2}.batch128.{epochs}")
                for epochs in ("classifier30", "classifier50")
            ),
        ),
    ),
    Claim(
        "R2.7",
        "A deeper encoder helps: ResNet-34 reaches 51 %; ResNet-50 may reach 70 %.",
        "test accuracy of R2's recipe with ResNet-34 and ResNet-50, and ResNet-34 against ResNet-18",
        "cifar10",
        (CIFAR,),
        all_of(
            better(f"{_R2}.resnet34.classifier50", f"{_R2}.resnet18.classifier50"),
            comes_back(f"{_R2}.resnet34.classifier50", 0.51),
            comes_back(f"{_R2}.resnet50.classifier50", 0.70),
        ),
    ),
    Claim(
        "R2.8",
        "The pre-training loss has not converged on CIFAR-10 after 10 epochs.",
        "pre-training loss per epoch of R2's recipe, batch 128",
        "cifar10",
        (CIFAR,),
        negate(levelled_off(f"{_R2}.batch128.loss", 10)),
    ),
)

_R2_CONVERGENCE = (
    Claim(
        "R2.9",
        "MNIST: pre-training levels off near epoch 9, the classifier near epoch 28.",
        "pre-training loss and training loss of the classifier per epoch",
        "mnist",
        (MNIST,),
        all_of(levelled_off("mnist.r2.loss", 9), levelled_off("mnist.r2.classifier_loss", 28)),
    ),
    Claim(
        "R2.10",
        "CIFAR-10: the classifier has not converged after 30 epochs, nor after 50.",
        "training loss of R2's classifier per epoch",
        "cifar10",
        (CIFAR,),
        all_of(*(negate(levelled_off(f"{_R2}.batch128.classifier_loss", epoch)) for epoch in (30, 50))),
    ),
)

_R3 = (
    Claim(
        "R3.1",
        "The composition of augmentations decides how good the representation is.",
        "linear-evaluation accuracy, crop alone and colour jitter alone against both together",
        "cifar10",
        (AUGMENTATION,),
        all_of(clearly_worse(_CROP, _CROP_JITTER), clearly_worse(_JITTER, _CROP_JITTER)),
    ),
    Claim(
        "R3.2",
        "A learnable nonlinear map between representation and loss helps much.",
        "linear-evaluation accuracy, linear head and no head against mlp_bn",
        "cifar10",
        (HEAD,),
        all_of(clearly_worse(_LINEAR, _MLP_BN), clearly_worse(_NONE, _MLP_BN)),
    ),
    Claim(
        "R3.3",
        "Contrastive learning gains more from larger batches and more steps than supervised learning.",
        "gain in test accuracy from batch 64 to 1,024 and from 10 to 100 epochs, SimCLR against supervised",
        "cifar10",
        (SWEEPS,),
        all_of(
            *(
                gains_more(*(f"cifar.gain.{kind}.{size}" for kind in ("simclr", "supervised") for size in sizes))
                for sizes in (("batch1024", "batch64"), ("epochs100", "epochs10"))
            )
        ),
    ),
)

_R4 = (
    Claim(
        "R4.1",
        "Linear-evaluation accuracy tracks the quality of the representation.",
        "rank correlation over encoders: linear-evaluation accuracy and fine-tuning on 1 % of the labels",
        "cifar10",
        (FEW_LABELS,),
        above_zero("cifar.few_labels.rank_correlation"),
    ),
    Claim(
        "R4.2",
        "Fine-tuned on 1 % of the labels, accuracy stays far below a linear classifier with all labels "
        "(ImageNet: 50-odd beside 76.5 %; here the same comparison on CIFAR-10).",
        "test accuracy, whole network fine-tuned on 1 % of the labels against linear evaluation on all",
        "cifar10",
        (FEW_LABELS,),
        clearly_worse("cifar.few_labels.finetune.1percent", "cifar.few_labels.linear.100percent"),
    ),
)

_R5 = (
    Claim(
        "R5.1",
        "Crop combined with colour distortion contributes most.",
        "linear-evaluation accuracy, crop + colour jitter against every other single transform and pair",
        "cifar10",
        (AUGMENTATION,),
        _best(_CROP_JITTER, _COMPOSITIONS),
    ),
    Claim(
        "R5.2",
        "A linear classifier does better on h, before the head, than on z.",
        "test accuracy of the linear probe on h against z, head mlp_bn",
        "cifar10",
        (HEAD,),
        better("cifar.head.mlp_bn.probe.h", "cifar.head.mlp_bn.probe.z"),
    ),
    Claim(
        "R5.3",
        "The temperature matters; 0.1 to 0.5 is the useful range.",
        "linear-evaluation accuracy: some temperature of 0.1, 0.2, 0.5 beats 0.05, and some beats 1",
        "cifar10",
        (SWEEPS,),
        all_of(*(any_of(*(better(inside, other) for inside in _USEFUL_TEMPERATURES)) for other in _OTHER_TEMPERATURES)),
    ),
    Claim(
        "R5.4",
        "A batch of 256 or more is crucial.",
        "linear-evaluation accuracy at batch 64 and 128 against 256",
        "cifar10",
        (SWEEPS,),
        all_of(clearly_worse(_BATCH_64, _BATCH_256), clearly_worse(_BATCH_128, _BATCH_256)),
    ),
)

CLAIMS: tuple[Claim, ...] = (*_R1, *_R2_MNIST, *_R2_CIFAR, *_R2_CONVERGENCE, *_R3, *_R4, *_R5)


# ---- the ledger -------------------------------------------------------------------------------------------


def judge(results: Mapping[str, dict]) -> list[Verdict]:
    """A verdict on every claim, from the results JSON of each notebook."""
    return [_judge(claim, Evidence(results, claim.notebooks, claim.dataset)) for claim in CLAIMS]


def _judge(claim: Claim, evidence: Evidence) -> Verdict:
    found = claim.rule.find(evidence)
    figures = [entry["figure"] for entry in map(evidence.entry, claim.keys) if entry and entry["figure"]]
    points_to, reason = _reading(found)
    return Verdict(claim, found.verdict, found.measured, points_to, tuple(dict.fromkeys(figures)), reason)


def _reading(found: Finding) -> tuple[str, str]:
    """(points_to, reason) of a finding: both empty where the numbers settle the claim."""
    if found.verdict != UNDECIDED:
        return "", found.reason
    if found.seeds >= MIN_SEEDS:
        return "", "the seeds leave it open"
    direction = {HOLDS: "towards the claim", FAILS: "against the claim"}.get(found.leaning, "neither way")
    return direction, f"{count_seeds(found.seeds)}, {MIN_SEEDS} needed"


def ledger_frame(verdicts: list[Verdict]) -> pd.DataFrame:
    """The claims ledger: what the source says, what we measured, the verdict, and where it is shown."""
    return pd.DataFrame([_ledger_row(verdict) for verdict in verdicts])


def rules_frame() -> pd.DataFrame:
    """How each claim is judged: what is measured for it, and the rule."""
    return pd.DataFrame(
        [{"claim": claim.id, "measured for it": claim.quantity, "it holds if": claim.rule.says} for claim in CLAIMS]
    )


def _ledger_row(verdict: Verdict) -> dict[str, str]:
    remark = "; ".join(filter(None, (verdict.reason, verdict.points_to and f"points {verdict.points_to}")))
    return {
        "claim": verdict.claim.id,
        "the source says": verdict.claim.text,
        "verdict": f"{verdict.verdict}: {remark}" if remark else verdict.verdict,
        "measured": verdict.measured or "–",
        "shown in": ", ".join(f"@{label}" for label in verdict.figures) or "–",
    }
