"""What others reported, and where: the only place where figures are typed in, with their source."""

import pandas as pd

# R2's MNIST experiment, as its report states it (fractions, seconds, nats); curves per epoch.
R2_MNIST = {
    "test_accuracy": 0.9527,
    "train_accuracy_first": 0.659,
    "train_accuracy_last": 0.960,
    "loss_first": 4.86,
    "loss_last": 4.44,
    "loss": [4.8648, 4.5842, 4.5260, 4.4956, 4.4790, 4.4683, 4.4569, 4.4520, 4.4462, 4.4402],
    "classifier_loss": [
        1.2472, 0.4549, 0.3451, 0.3053, 0.2783, 0.2636, 0.2453, 0.2354, 0.2285, 0.2176,
        0.2064, 0.2026, 0.1955, 0.1898, 0.1831, 0.1753, 0.1713, 0.1687, 0.1628, 0.1584,
        0.1549, 0.1520, 0.1486, 0.1444, 0.1383, 0.1375, 0.1334, 0.1344, 0.1289, 0.1258,
    ],
    "level_epoch": 9,
    "classifier_level_epoch": 28,
    "seconds_pretrain": 179.4,
    "seconds_classifier": 36.9,
    "accuracy_two_parts": 0.97,
    "classifier_at_least": 0.95,  # where the clusterings stay at or below
    "clustering_at_most": 0.70,
}  # fmt: skip

# R2's CIFAR-10 experiment: test accuracy by pre-training batch and classifier epochs, from ImageNet
# weights. resnet50 is expected there, not run; of the classifier's loss the end is printed.
R2_CIFAR10 = {
    "batch128.classifier30": 0.4730,
    "batch512.classifier50": 0.4997,
    "resnet34": 0.51,
    "resnet50": 0.70,
    "pretrain_epochs": 10,
    "classifier_epochs": (30, 50),
    "classifier_loss_25_to_30": [1.4173, 1.4155, 1.4170, 1.4147, 1.4162, 1.4064],
}

# dkobak/simclr-cifar10, README: mean of 3 seeds, last epoch.
SHORT_RECIPE = {
    "text": "The strongest published recipe of 100 epochs (dkobak/simclr-cifar10): SGD with "
    "momentum 0.9, learning rate 0.06 for each 256 images of the batch, weight decay 0.0005, "
    "cosine to 0, temperature 0.5, crop, flip, jitter and grayscale with probability 0.1, no blur, "
    "head 512-1024-128 without BN, BN statistics of each view.",
    "accuracy": {"kNN (k 10)": 0.832, "linear": 0.856},
}

# SCAN paper, table 3: k-means on SimCLR's features after 500 epochs (fractions).
SCAN_KMEANS = {"accuracy": 0.659, "NMI": 0.598, "ARI": 0.509}

SOURCES = {
    "R1": "SimCLR-Based Self-Supervised Learning on CIFAR-10: Experimental Report. Course report "
    "(in Chinese), 17 May 2025.",
    "R2": "Undergraduate lab report on SimCLR with MNIST and CIFAR-10 (in Chinese), undated.",
    "R3": "Slides presenting “A Simple Framework for Contrastive Learning of Visual "
    "Representations” (in Chinese), undated.",
    "R4": "SimCLR. Article on the paper (in Chinese), 12 July 2024.",
    "R5": "The contrastive learning framework in self-supervised learning: principle and "
    "training of SimCLR. Explainer (in Chinese), undated.",
    "SimCLR": "T. Chen, S. Kornblith, M. Norouzi, G. Hinton. A Simple Framework for Contrastive "
    "Learning of Visual Representations. 2020, arXiv 2002.05709.",
    "Alignment": "T. Wang, P. Isola. Understanding Contrastive Representation Learning through "
    "Alignment and Uniformity on the Hypersphere. 2020, arXiv 2005.10242.",
    "RankMe": "Q. Garrido, R. Balestriero, L. Najman, Y. LeCun. RankMe: Assessing the downstream "
    "performance of pretrained self-supervised representations by their rank. 2023, arXiv "
    "2210.02885.",
    "t-SNE": "L. van der Maaten, G. Hinton. Visualizing Data using t-SNE. Journal of Machine "
    "Learning Research 9, 2008.",
    "DeiT": "H. Touvron and others. Training data-efficient image transformers and distillation "
    "through attention. 2020, arXiv 2012.12877.",
    "SCAN": "W. Van Gansbeke, S. Vandenhende, S. Georgoulis, M. Proesmans, L. Van Gool. SCAN: "
    "Learning to Classify Images without Labels. 2020, arXiv 2005.12320.",
    "Hungarian": "H. W. Kuhn. The Hungarian method for the assignment problem. Naval Research "
    "Logistics Quarterly 2, 1955.",
    "MNIST": "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner. Gradient-based learning applied to "
    "document recognition. Proceedings of the IEEE 86, 1998.",
    "CIFAR-10": "A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. Technical "
    "report, 2009.",
    "google-research/simclr": "Repository: the paper's own implementation (TensorFlow).",
    "dkobak/simclr-cifar10": "Repository: SimCLR on CIFAR-10, 100 to 1,000 epochs.",
    "lightly": "Repository lightly-ai/lightly: docs/source/getting_started/benchmarks.rst.",
    "solo-learn": "Repository vturrisi/solo-learn: README.",
}

# CIFAR-10, ResNet-18 with the 3x3 stem unless stated; accuracies as their sources print them (%).
OUTSIDE_CIFAR10 = pd.DataFrame(
    [
        ("dkobak/simclr-cifar10", "100 epochs, batch 512", "kNN (k 10, cosine) / linear, "
         "last epoch, 3 seeds", "83.2 ± 0.2 / 85.6 ± 0.2", "20 min, one A100"),
        ("dkobak/simclr-cifar10", "500 epochs", "kNN", "90.3 ± 0.3", "1 h 39 min, one A100"),
        ("dkobak/simclr-cifar10", "1,000 epochs", "kNN / linear / linear with augmentation",
         "91.4 / 91.7 / 91.9", "11.9 s per epoch"),
        ("lightly", "200 epochs, batch 128 / 512", "kNN (k 200), best epoch on test", "84.7 / 84.8",
         "97.7 / 87.1 min, one A6000"),
        ("lightly", "800 epochs, batch 512", "kNN (k 200), best epoch on test", "87.9",
         "331 min, one A6000"),
        ("solo-learn", "1,000 epochs, batch 256", "online linear", "90.74", "–"),
        ("google-research/simclr", "1,000 epochs, batch 512", "linear", "about 91", "–"),
        ("SimCLR", "ResNet-50, 1,000 epochs, batch 1,024", "linear", "94.0", "–"),
        ("SCAN", "500 epochs, then k-means", "Hungarian accuracy / NMI / ARI",
         "65.9 / 59.8 / 50.9", "–"),
    ],
    columns=["source", "pre-training", "evaluation", "accuracy (%)", "time"],
)  # fmt: skip


def bibliography() -> str:
    """Markdown list of the sources."""
    return "\n".join(f"- **{key}.** {text}" for key, text in SOURCES.items())
