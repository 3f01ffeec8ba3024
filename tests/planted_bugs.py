"""Bugs planted in a copy of the method one after the other: do the tests of the module notice?

    python tests/planted_bugs.py            # all; prints which survive, and how long it took
    python tests/planted_bugs.py 3 17       # these, by their number in the list

Each is one plausible line, moves numbers and does not crash. A survivor gets a test, or says in
its fourth place why none can see it.
"""

import importlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# Slow to load, and no bug is in them.
LOADED = ("pytest", "papermill.execute", "nbformat.validator", "matplotlib.pyplot",
          "sklearn.manifold", "sklearn.cluster", "sklearn.mixture", "torchvision.models",
          "torchvision.transforms.v2", "safetensors.torch", "filelock", "pydantic.dataclasses",
          "torch.distributed", "torch.utils.data")  # fmt: skip
# The tests of a module, the cheapest first; the oracle's last.
TESTS = {
    "loss": "loss",
    "tiled_loss": "loss",
    "augment": "augment",
    "model": "model wiring",
    "optim": "optim wiring",
    "seeds": "train wiring",
    "precision": "train wiring",
    "train": "train wiring",
    "config": "train wiring",
    "evaluate": "evaluate wiring",
    "cluster": "cluster",
    "geometry": "geometry",
    "data/mnist": "data",
    "data/cifar10": "data",
    "data/made": "data",
    "data/dataset": "data train wiring",
    "data/folder": "data",
    "scale/processes": "distributed",
    "scale/training": "caching distributed",
    "scale/streaming": "streaming",
    "scale/listing": "streaming",
    "measure": "cluster geometry evaluate wiring",
}
# Takes long, and is about no number.
PASSED_OVER = "download or real_archive or edit_to_the_decoder or is_killed or killed_worker"
# Module -> (old text, new text, what it is[, why no test can see it]).
LISTED = {
    "loss": [
        (".roll(len(z) // 2)", ".roll(len(z) // 2 - 1)", "the positive is the next image's view"),
        ("fill_diagonal_(-math.inf)", "fill_diagonal_(0.0)", "a view is a negative of itself"),
        ("logits = z @ z.T / temperature", "logits = z @ z.T", "temperature ignored"),
        ("logits = z @ z.T / temperature", "logits = z @ z.T / temperature**2", "and squared"),
        ("F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)))",
         "z.to(torch.promote_types(z.dtype, torch.float32))", "z not of unit length"),
        ("F.cross_entropy(logits, positives)", "F.cross_entropy(logits, positives) / 2",
         "the mean over N, not 2N"),
        ("math.exp((negative - 1) / temperature)", "math.exp(negative / temperature)",
         "the floor without its positive"),
    ],
    "tiled_loss": [
        ("positives[a] = logits.diagonal()", "positives[a] = logits.roll(1, 0).diagonal()",
         "the positive is the next image's view"),
        ("sums[b].add_(logits.sum(0))", "pass", "the tile's second half is missing"),
        ("_add_exponentials(sums, peaks, b, logits.T)",
         "_add_exponentials(sums, peaks, a, logits)", "the same at low temperature"),
        ("return logits.fill_diagonal_(-math.inf) if a is b else logits", "return logits",
         "a view is a negative of itself"),
        ("n, scale = len(z) // 2, LOG2_E / temperature",
         "n, scale = len(z) // 2, LOG2_E / temperature**2", "temperature squared"),
        (".mean() / LOG2_E", ".mean()", "the loss in bits"),
        ("gradient[b].addmm_(weights.T, z[a])", "pass", "half of the gradient"),
        ("weights.diagonal().sub_(2)", "weights.diagonal().sub_(1)", "half of the positive's pull"),
        ("(peaks[rows] - peak).exp2_()", "(peaks[rows] - peak).exp_()", "e for 2"),
        ("ctx.scale / LOG2_E / (2 * n)", "ctx.scale / LOG2_E / n", "twice the gradient"),
    ],
    "augment": [
        ("_BASIC = ViewRecipe(crop_scale=(0.2, 1.0)", "_BASIC = ViewRecipe(crop_scale=(0.08, 1.0)",
         "ImageNet's crops"),
        ("(0.8, 0.8, 0.8, 0.2), jitter_p=0.8)", "(0.8, 0.8, 0.8, 0.2), jitter_p=0.5)",
         "jitter's probability"),
        ("_COLOR = replace(_BASIC, jitter=(0.8, 0.8, 0.8, 0.2)",
         "_COLOR = replace(_BASIC, jitter=(0.8, 0.8, 0.8, 0.1)", "hue's strength"),
        ('"gray": replace(_BASIC, grayscale_p=0.2)', '"gray": replace(_BASIC, grayscale_p=0.1)',
         "grayscale's probability"),
        ("grayscale_p=0.2, blur_p=0.5)", "grayscale_p=0.2, blur_p=0.3)", "blur's probability"),
        ('"best": replace(_COLOR, grayscale_p=0.1)', '"best": replace(_COLOR, grayscale_p=0.2)',
         "the best recipe's grayscale"),
        ('"r2": replace(_R2, first_view="identity")', '"r2": replace(_R2)',
         "R2's first view augmented"),
        ("replace(_R2, rotation_degrees=15.0)", "replace(_R2, rotation_degrees=10.0)",
         "R2's rotation"),
        ("blur_p=0.3, blur_kernel=5)", "blur_p=0.3, blur_kernel=3)", "R2's blur kernel"),
        ('rotation_degrees=15.0, rotation_interpolation="bilinear")', "rotation_degrees=15.0)",
         "digits rotated by nearest neighbours"),
        ("blur_sigma: tuple[float, float] = (0.1, 2.0)",
         "blur_sigma: tuple[float, float] = (0.1, 1.0)", "blur's range"),
        ("= (3 / 4, 4 / 3)", "= (1 / 2, 2 / 1)", "the crop's ratio"),
        ('"flip": {"flip_p": 0.5}', '"flip": {"flip_p": 0.25}', "flip's probability, alone"),
        ("3: (0.2989, 0.587, 0.114)", "3: (1 / 3, 1 / 3, 1 / 3)", "grayscale's weights"),
        ("strength * deviation for deviation", "deviation for deviation", "strength ignored"),
        ("torch.rand(n, generator=generator) < p", "torch.rand(n, generator=generator) > p",
         "every probability turned round"),
        ("uniform(max(0.0, 1 - strength), 1 + strength)", "uniform(max(0.0, 1 - strength), 1.0)",
         "jitter only downwards"),
        ("uniform(-hue, hue)", "uniform(0, hue)", "hue turned one way only"),
        ("order=torch.rand(n, 4, generator=generator).argsort(dim=1)",
         "order=torch.rand(1, 4, generator=generator).argsort(dim=1).repeat(n, 1)",
         "one order of jitter for all views"),
        ("uniform(-recipe.rotation_degrees, recipe", "uniform(0.0, recipe", "rotated one way only"),
        ("uniform_(math.log(low), math.log(high), generator=generator).exp_()",
         "uniform_(low, high, generator=generator)", "ratios uniform, not their logarithms"),
        ("torch.stack([area / ratio, area * ratio]", "torch.stack([area * ratio, area / ratio]",
         "the crop's height for its width"),
        ("* (image - size + 1)", "* (image - size)", "never a crop at the last place"),
        ("torch.cat([rows, rows + n])", "torch.cat([rows, rows])", "both views by one draw"),
        ("return images.div(255).sub_(mean).div_(std)", "return images.div(255).div_(std).sub_(mean)",
         "images normalised in the wrong order"),
        ("x = x.sub_(mean).div_(std)", "x = x.div_(std).sub_(mean)",
         "views normalised in the wrong order"),
        ("rank[rows]).div(255)", "rank[rows]).div(256)", "the views' range of pixels"),
        ("if recipe.normalise_twice:", "if False:", "normalised once only"),
        ("torch.stack([torch.zeros(len(box)), flipped * (width - 1.0)]",
         "torch.stack([flipped * (width - 1.0), torch.zeros(len(box))]", "flipped upside down"),
        (".add_(0.5).mul_(scale).sub_(0.5)", ".mul_(scale)", "half a pixel lost in the resize"),
        ("torch.stack([1 - on, on, 0 * on], dim=1)", "torch.stack([1 - on, 0 * on, on], dim=1)",
         "grayscale is the mean grey"),
        ("for k in (SATURATION, CONTRAST)", "for k in (CONTRAST, SATURATION)",
         "contrast and saturation exchanged"),
        ("(-0.5 * (offsets", "(-1.0 * (offsets", "blur's width"),
        ("side - 1 - (side - 1 - (pixels + offsets).abs()).abs()",
         "(pixels + offsets).clamp(0, side - 1)", "blur repeats the border"),
        ("cos, sin = radians.cos(), radians.sin()", "cos, sin = radians.cos(), -radians.sin()",
         "rotated clockwise"),
        ("F.grid_sample(x, grid, interpolation,", 'F.grid_sample(x, grid, "bilinear",',
         "rotation's interpolation ignored"),
        ('padding_mode="zeros"', 'padding_mode="border"', "rotation repeats the border"),
        ("_constant((0, 2 / 3, 4 / 3), x.device)", "_constant((0, 4 / 3, 2 / 3), x.device)",
         "green and blue exchanged by hue"),
    ],
    "model": [
        ('if stem == "cifar" else (7, 2, 3)', 'if stem else (7, 2, 3)', "the stem ignored"),
        ("self.maxpool, self.fc = nn.Identity(), nn.Identity()", "self.fc = nn.Identity()",
         "the max-pool left in"),
        ('"resnet18": (BasicBlock, [2, 2, 2, 2])', '"resnet18": (BasicBlock, [2, 2, 2, 1])',
         "a block less"),
        ('mode="fan_out"', 'mode="fan_in"', "the convolutions' initialisation"),
        ("(first, *norms, nn.ReLU(), nn.Linear(hidden, z_dim))",
         "(first, *norms, nn.Linear(hidden, z_dim))", "heads without ReLU"),
        ("norms = [nn.BatchNorm1d(hidden)] if norm else []", "norms = []", "heads without BN"),
        ("nn.ReLU(), nn.Linear(hidden, z_dim))", "nn.ReLU(), nn.Linear(hidden, z_dim, bias=False))",
         "no bias behind the ReLU"),
        ("F.relu(F.max_pool2d(self.conv2(x), 2), inplace=True)", "F.max_pool2d(self.conv2(x), 2)",
         "MNIST's encoder without its second ReLU"),
        ("return self.fc(x.flatten(1))", "return F.relu(self.fc(x.flatten(1)))",
         "h of MNIST's encoder cut at 0"),
        ("F.max_pool2d(self.conv1(x), 2)", "F.avg_pool2d(self.conv1(x), 2)", "means for maxima"),
        ("stride=1 if k == 0 else 2", "stride=2", "a narrow ResNet halves once more"),
        ("first * 2**k, depth", "first * 2 ** min(k, 2), depth", "a narrow ResNet's last stage"),
        ("nn.Linear(h_dim, z_dim, bias=False),", "nn.Linear(h_dim, z_dim),", "a linear head's bias"),
        ("VIT_PATCH, VIT_LAYERS, VIT_HEADS = 4, 12, 3", "VIT_PATCH, VIT_LAYERS, VIT_HEADS = 4, 6, 3",
         "half of ViT's layers"),
        ('key.startswith(("conv1.", "fc."))', 'key.startswith(("conv1.", "fc.", "layer4."))',
         "part of the ImageNet weights not loaded"),
    ],
    "optim": [
        ("SGD(w, lr, momentum, weight", "SGD(w, lr, weight", "SGD without momentum"),
        ("Adam(w, lr, weight_decay=decay", "Adam(w, lr, weight_decay=0.0", "Adam's decay ignored"),
        ("AdamW(w, lr, weight_decay=decay, fused=True)", "AdamW(w, lr, fused=True)",
         "torch's decay in AdamW"),
        ("for k, w in enumerate(parameters) if w.ndim > 1]",
         "for k, w in enumerate(parameters) if w.ndim > 0]", "LARS adapts biases and BN"),
        ("eta = 0.001", "eta = 0.002", "LARS's eta"),
        ('w, alpha=group["weight_decay"])', "w, alpha=0.0)", "LARS without weight decay"),
        ('updates = list(torch._foreach_add(gradients, velocities, alpha=group["momentum"]))',
         "updates = list(velocities)", "Muon without Nesterov"),
        ("0.2 * math.sqrt(max(shape))", "0.2 * math.sqrt(min(shape))", "the length of Muon's step"),
        ("2.0315 * gram @ gram", "2.0135 * gram @ gram", "two digits of Muon's coefficient"),
        ("3.4445 * y", "3.4454 * y", "two digits of another"),
        ("for _ in range(5):", "for _ in range(4):", "a Newton-Schulz step less"),
        ('1 - group["lr"] * group["weight_decay"]', '1 - group["weight_decay"]',
         "Muon's decay without the learning rate"),
        ("math.cos(math.pi * k / n)", "math.cos(math.pi * k / (n + 1))", "the cosine's length"),
        ("return (step + 1) / warmup_steps", "return step / warmup_steps", "warm-up off by one"),
        ("SCHEDULES[schedule](step - warmup_steps, max(1, steps - warmup_steps))",
         "SCHEDULES[schedule](step, steps)", "the cosine begins with the warm-up"),
        ("math.cos(math.pi * k / n)", "math.cos(math.pi * min(k / n, 0.75))",
         "the last quarter of the schedule"),
    ],
    "seeds": [
        ("[seed, PURPOSES[purpose], index]", "[seed, PURPOSES[purpose], 0]", "one stream for all"),
        ("[seed, PURPOSES[purpose], index]", "[seed, 0, index]", "one stream for every purpose"),
        ("and len(parts[-1]) == 1:", "and len(parts[-1]) < batch_size:", "the ragged batch joined"),
    ],
    "precision": [
        ('enabled=precision == "bf16"', 'enabled=precision == "BF16"', "bf16 ignored"),
        ("torch.backends.cudnn.allow_tf32 = False", "torch.backends.cudnn.allow_tf32 = before",
         "TF32 where fp32 was asked for",
         "a GPU's matter: the losses of test_train.py there, within their tolerance"),
    ],
    "train": [
        ("self.encoder.train()", "self.encoder.eval()", "the encoder in eval mode"),
        ("self.head.train()", "self.head.eval()", "the head in eval mode"),
        ('generator(self.seed, "order", epoch + 1)', 'generator(self.seed, "order", 1)',
         "every epoch in the same order"),
        ('generator(self.seed, "order", epoch + 1)', 'generator(0, "order", epoch + 1)',
         "the order without the seed"),
        ('generator(self.seed, "views", self.steps_done)',
         'generator(0, "views", self.steps_done)', "the views without the seed"),
        ('generator(self.seed, "views", self.steps_done)', 'generator(self.seed, "views", epoch)',
         "every step of an epoch with the same draws"),
        ("self.step(x_i, x_j) * len(rows)", "self.step(x_i, x_j) * self.batch_size",
         "a ragged batch counts as a whole one"),
        ("self.steps_done, steps, round(warmup))",
         "self.steps_done, steps, round(self.warmup_epochs))", "warm-up: epochs for steps"),
        ("self.steps_done, steps, round(warmup))",
         "self.steps_done, steps + self.steps_per_epoch, round(warmup))", "the schedule's length"),
        ('group["lr"] = peak * factor', 'group["lr"] = peak', "the schedule ignored"),
        ("self.optimizer.zero_grad(set_to_none=True)", "pass", "gradients never set to 0"),
        ('== "per_view":', '== "per view":', "BN always over both views"),
        ("self.head(self.encoder(x_i)), self.head(self.encoder(x_j))",
         "self.head(self.encoder(x_i)), self.head(self.encoder(x_i))", "view 1 twice, per view"),
        ("loss = self.loss(z_i, z_j)", "loss = self.loss(z_i, z_j.detach())", "half of a gradient"),
        ("loss = self.finite_total() / len(self.images)",
         "loss = self.finite_total() / self.steps_per_epoch / self.batch_size",
         "the mean loss by whole batches"),
        ('for name in ("encoder", "head", "optimizer"):', 'for name in ("encoder", "head"):',
         "resumed without the optimiser's state"),
        ("self.batch_size)[done:]", "self.batch_size)", "resumed at the epoch's beginning"),
        ('self.total = state["total"].to(self.device)', "pass", "resumed without the epoch's losses"),
    ],
    "config": [
        ("temperature=self.temperature)", "temperature=0.5)", "temperature fixed"),
        ("self.lr, self.weight_decay, self.momentum", "self.lr, 0.0, self.momentum",
         "weight decay ignored"),
        ("self.lr, self.weight_decay, self.momentum", "self.lr, self.weight_decay, 0.9",
         "momentum fixed"),
        ("data.train.part(*self.images)", "data.train.part(0, self.images[1])",
         "the first image ignored"),
        ('stream_seed(self.seed, "weights"))', 'stream_seed(0, "weights"))',
         "the encoder's weights without the seed"),
        ('stream_seed(self.seed, "weights", 1)', 'stream_seed(0, "weights", 1)',
         "the head's weights without the seed"),
        ("self.width, self.stem, self.init)", "self.width, self.stem)", "initialisation ignored"),
        ("self.width, self.stem, self.init)", "self.width, init=self.init)", "the stem ignored"),
        ("view_recipe(self.augmentation, self.strength)", "view_recipe(self.augmentation)",
         "strength ignored"),
        ("mean=data.mean, std=data.std)", "mean=data.mean, std=data.mean)", "the mean for the std"),
        ('"batch_norm", "precision")', '"batch_norm")', "precision ignored"),
        ('(*same, "seed")', "same", "order and views without the seed"),
    ],
    "evaluate": [
        ("mean, std = x.mean(0), x.std(0).clamp_min(1e-6)",
         "mean, std = x_scored.mean(0), x_scored.std(0).clamp_min(1e-6)",
         "standardised by the test features"),
        ("x, x_scored = (x - mean) / std, (x_scored - mean) / std", "x = (x - mean) / std",
         "test features not standardised"),
        ('generator(config.seed, "order", epoch)', 'generator(config.seed, "order", 1)',
         "every epoch in the same order"),
        ("nn.Sequential(hidden, nn.ReLU(), ", "nn.Sequential(hidden, ", "hidden without ReLU"),
        ('stream_seed(config.seed, "weights")', 'stream_seed(0, "weights")', "classifier's seed"),
        ('generator(draw, "labels", label)', 'generator(0, "labels", label)', "the draw ignored"),
        ("rows.append(of_class[order[:per_class]])", "rows.append(of_class[:per_class])",
         "always the first of a class"),
        ("F.cross_entropy(logits.float(), labels[rows])",
         "F.cross_entropy(logits.float(), labels[rows].roll(1))", "labels shifted"),
        ("right / len(scored[1])", "right / len(labels)", "scored by the number of fitted images"),
        ("h, h_scored = F.normalize(h), F.normalize(h_scored)", "h_scored = F.normalize(h_scored)",
         "kNN without normalisation"),
        ("topk(k, dim=1)", "topk(max(1, k - 1), dim=1)", "a neighbour less"),
        ("(similarity / temperature).exp()", "similarity.exp()", "kNN's temperature ignored"),
        ("scatter_add_(1, labels[rows], weights)",
         "scatter_(1, labels[rows], weights)", "one vote a class"),
        ('group["lr"] = config.lr * factor', 'group["lr"] = config.lr', "the schedule ignored"),
        ("len(parts) * config.epochs)", "len(parts) * (config.epochs + 1))",
         "the schedule's length"),
        ("(epoch - 1) * len(parts))", "0)", "the schedule begins anew each epoch"),
        ("encoder.requires_grad_(not config.moving_bn)", "encoder.requires_grad_(True)",
         "moving_bn trains the encoder"),
        ("network.train()", "network.eval()", "trained in eval mode"),
        ("network.eval()", "network.train()", "scored in training mode"),
        ('generator(config.seed, "views", epoch)', 'generator(0, "views", epoch)',
         "fine-tuning's views without the seed"),
        ("view_recipe(config.augmentation)", "view_recipe(config.augmentation, 1.0)",
         "fine-tuning's strength"),
        ("config.lr, config.weight_decay, MOMENTUM", "config.lr, 0.0, MOMENTUM",
         "weight decay ignored"),
        ("MOMENTUM = 0.9", "MOMENTUM = 0.95", "the classifier's momentum"),
        ("scored[1] * classes + found", "found * classes + scored[1]", "confusion transposed"),
        ("total += loss.detach() * len(rows)", "total += loss.detach() * config.batch_size",
         "a ragged batch counts as a whole one"),
    ],
    "cluster": [
        ("maximize=True", "maximize=False", "the worst naming"),
        ("(seed * config.restarts + k) % 2**32", "k", "the same restarts for every seed"),
        ("x, x_scored = normalize(x), normalize(x_scored)", "x = normalize(x)",
         "scored features not normalised"),
        ("hungarian_match(found, labels, classes)",
         "hungarian_match(found_scored, scored_labels, classes)", "named by the test labels"),
        ("-model[-1].inertia_", "model[-1].inertia_", "the worst fit is shown"),
        ('"covariance_type": "full"', '"covariance_type": "diag"', "diagonal covariances"),
        ("GMM_RIDGE = 1e-3", "GMM_RIDGE = 1e-2", "the covariances' ridge"),
        ("PCA(config.components,", "PCA(min(2, config.components),", "two components always"),
        ("KMeans(clusters, n_init=1, random_state=seed)",
         'KMeans(clusters, n_init=1, random_state=seed, init="random")', "no k-means++"),
    ],
    "geometry": [
        (".square().sum(1).mean().item()", ".square().sum(1).sqrt().mean().item()", "alpha 1"),
        (".mul(-2).exp()", ".mul(-1).exp()", "t 1"),
        ("(sums.square().sum(1) - counts) / (counts * (counts - 1))",
         "sums.square().sum(1) / (counts * counts)", "the diagonal with each image's own"),
        ("shares = values / values.sum()", "shares = values**2 / values.square().sum()",
         "shares of variances"),
        ("F.normalize(h_asked) @ F.normalize(h).T", "F.normalize(h_asked) @ h.T",
         "neighbours by length, too"),
        ("x = F.normalize(h).numpy()", "x = h.numpy()", "the map of h as it is"),
        ("F.normalize(h.double()))", "h.double())", "distances of h as it is"),
        ('{"uniformity": uniformity(h)', '{"uniformity": uniformity(u)', "uniformity of views"),
        ('alignment(u, v)', 'alignment(u, h)', "alignment with the image as it is"),
        ("PERPLEXITY = 30.0", "PERPLEXITY = 50.0", "t-SNE's perplexity"),
    ],
    "data/mnist": [
        ("STATISTICS = ((0.1307,), (0.3081,))", "STATISTICS = ((0.1307,), (0.3801,))", "MNIST's std"),
        ("np.uint8, offset=8)", "np.uint8, offset=7)[:-1]", "labels shifted by an image"),
    ],
    "data/cifar10": [
        ("STATISTICS = ((0.5,) * 3, (0.5,) * 3)", "STATISTICS = ((0.5,) * 3, (0.25,) * 3)",
         "CIFAR-10's std"),
        ('decode("cifar10", splits, 32, str(archive))', 'decode("cifar10", splits, 28, str(archive))',
         "an archive's image size"),
    ],
    "data/made": [
        ("align_corners=False", "align_corners=True", "digits enlarged otherwise"),
        ("(large * 255).round()", "(large * 255)", "digits' pixels cut, not rounded"),
        ("unsqueeze(1) / 16", "unsqueeze(1) / 17", "the range of the digits' pixels"),
        ("whole.part(0, 1500)", "whole.part(0, 1600)", "test digits among the training ones"),
        ("seed=1)", "seed=0)", "the test shapes are training ones"),
    ],
    "data/dataset": [
        ("self.labels[start:stop]", "self.labels[: stop - start]", "the first labels for a range's"),
        ("torch.randperm(len(images), generator=generator) if held",
         "torch.arange(len(images)) if held", "never shuffled"),
    ],
    "data/folder": [
        ("key=lambda item: int(Path(item[0]).stem)", "key=lambda item: item[0]", "10 before 9"),
        ("Image.Resampling.BILINEAR", "Image.Resampling.NEAREST", "the decoder's resize"),
        ("left, top = round((width - side) / 2), round((height - side) / 2)", "left, top = 0, 0",
         "the decoder's crop"),
        ("pixels = decoded[0]", "pixels = decoded[1]", "statistics of the test images"),
        ('return image.convert("RGB")', 'return image.convert("L").convert("RGB")',
         "the decoder's colours"),
        ('image.size, "white")', 'image.size, "black")', "transparency over black"),
        ("(wide / top * 255)", "(wide / top * 127)", "16-bit images too dark"),
        ("manual_seed(0)", "manual_seed(1)", "files without numbers mixed otherwise"),
    ],
    "scale/processes": [
        ("part.view_as(gradient))", "part.view_as(gradient) / self.count)",
         "the mean of the processes' gradients"),
        ("self.running_var.lerp_(variance * rows / (rows - 1), self.momentum)",
         "self.running_var.lerp_(variance, self.momentum)", "sync BN's running variance biased"),
        ("centred.square().sum(axes)) / rows", "centred.square().sum(axes)) / (rows - 1)",
         "sync BN's variance unbiased"),
        ("(variance + self.eps).rsqrt()", "variance.clamp_min(self.eps).rsqrt()", "sync BN's eps"),
        ("    backward = forward", "    backward = staticmethod(lambda ctx, gradient: gradient)",
         "sync BN's gradient not summed"),
        ("index_copy_(0, rows, own.detach())", "index_copy_(0, rows, own.detach() / 2)",
         "gathered z", "z is normalised in the loss, so its length moves nothing"),
        ("new_zeros(self.n, *own.shape[1:])", "new_ones(self.n, *own.shape[1:])",
         "gathered onto ones"),
    ],
    "scale/training": [
        ("sum(both * (n / sum(sizes)) for both, n in chunks)",
         "sum(both / len(sizes) for both, n in chunks)", "ragged chunks count as whole ones"),
        ("if torch.is_grad_enabled():", "if True:", "passes without gradient count"),
        ("chunk.tensor_split(count)[self.processes.rank]", "chunk.tensor_split(count)[0]",
         "all processes take the first part"),
        ("rows=self.share.rows, n=", "rows=torch.arange(len(self.share.rows)), n=",
         "each process draws the first views"),
        ("z_j.grad.split(share.sizes)", "z_i.grad.split(share.sizes)", "view 1's gradient twice"),
        ("norm.momentum = 1.0", "norm.momentum = 0.5", "chunks' statistics half of the last one's"),
        ("statistics[k::passes]", "statistics[:: len(sizes)]", "view 1's statistics twice"),
    ],
    "scale/streaming": [
        ("for k, content, where in self._contents([self.rows[row] for row in rows]):",
         "for k, (_, content, where) in enumerate(\n"
         "                    self._contents([self.rows[row] for row in rows])):",
         "a batch in its files' order"),
        ("order.append(rows[torch.randperm(len(rows), generator=generator)])", "order.append(rows)",
         "images of shards not mixed"),
        ("shards[torch.randperm(len(shards), generator=generator)].split", "shards.split",
         "shards always in their order"),
        ("rows=self.rows[start:stop])", "rows=range(start, stop))", "a part of a part"),
        ("return torch.randperm(len(self), generator=generator)", "return torch.arange(len(self))",
         "a folder never shuffled"),
        ("self.index.file[self.rows.start : self.rows.stop]",
         "self.index.file[: len(self.rows)]", "a part's order by the first images' shards"),
    ],
    "scale/listing": [
        ("sorted(classes, key=order)", "sorted(classes)", "class 10 before 2"),
        ("{split: put_in_order(files) for", "{split: sorted(files) for", "another order than held"),
        ("values = part.view(-1, 3).double() / 255", "values = part.view(-1, 3).double() / 256",
         "the statistics' range"),
        ("index = Index(**kept[\"train\"])", "index = Index(**kept[\"test\"])",
         "statistics of the test images"),
    ],
    "measure": [
        ("clustering.cluster(fitted, scored, classes, config, seed)",
         "clustering.cluster(fitted, scored, classes, config)", "restarts without the run's seed"),
        ("evaluate.encode(run.load_encoder(epoch), images", "evaluate.encode(run.load_encoder(), images",
         "the epoch ignored"),
        ("run.load_encoder(config.epoch)", "run.load_encoder()", "fine-tuned from the last epoch"),
        ("part, epoch=epoch) for part in (labels, scored_on)",
         "part, epoch=epoch) for part in (labels, None)", "kNN always scored on the test images"),
        ("for x in (*views, _plain(pictures, data))", "for x in (*views, views[0])",
         "geometry of views"),
        ("weights, part and tuple(part), data", "weights, data", "features of another part held"),
        ("weights, part and tuple(part), data", "part and tuple(part), data",
         "features of other weights held"),
        ('data.std, run.config.precision', 'data.std, "fp32"', "fine-tuning's precision"),
        ("_labelled(run, data, part, config.on, config.epoch)",
         '_labelled(run, data, part, "h", config.epoch)', "on z ignored"),
        ("start = run.config.images[0]", "start = 0", "pictures of other images"),
        ("return data.train.part(*part)", "return data.train.part(0, part[1])",
         "every range begins with the first image"),
    ],
}  # fmt: skip


class Bug(NamedTuple):
    module: str
    old: str
    new: str
    what: str
    unseen: str = ""  # why no test can see it

    @property
    def file(self) -> str:
        at = "reports/labreport" if self.module == "measure" else "simclr_core"
        return f"{at}/{self.module}.py"

    @property
    def tests(self) -> list[str]:
        return [f"tests/test_{name}.py" for name in TESTS[self.module].split()]


BUGS = [Bug(module, *listed) for module, bugs in LISTED.items() for listed in bugs]


def bug(module: str, what: str) -> Bug:
    (found,) = [b for b in BUGS if (b.module, b.what) == (module, what)]
    return found


def copy_tree(target: Path) -> Path:
    """What the tests of the method need."""
    for name in ("simclr_core", "reports/labreport", "tests", "docs"):
        ignored = shutil.ignore_patterns("__pycache__", "reference")
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


def plant(planted: Bug, tree: Path) -> str:
    """Returns the file's text without it. Raises: LookupError if its place is not found once."""
    path = tree / planted.file
    text = path.read_text()
    if text.count(planted.old) != 1:
        raise LookupError(f"{planted.old!r} stands {text.count(planted.old)} times in {path}")
    path.write_text(text.replace(planted.old, planted.new))
    return text


def noticed_by(planted: Bug, tree: Path) -> str:
    """The last line of the tests that fail with it; "" if none does."""
    text = plant(planted, tree)
    try:
        said = _tests_in_a_fork(planted.tests, tree)
    finally:
        (tree / planted.file).write_text(text)
    return said


def _tests_in_a_fork(tests: list[str], tree: Path) -> str:
    """A child of this process, in which all but the method is loaded already."""
    for module in LOADED:
        importlib.import_module(module)
    child = os.fork()
    if not child:
        try:
            status = _tests_here(tests, tree)
        except BaseException:
            traceback.print_exc()
            status = 70
        os._exit(int(status))
    status, log = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), tree / "log.txt"
    if status not in (0, 1):  # not even collected, say
        raise RuntimeError(f"the tests ended with {status}: {log.read_text()[-2000:]}")
    failed = [line for line in log.read_text().splitlines() if line.startswith(("FAILED", "ERROR"))]
    return " ".join(failed) if status else ""


def _tests_here(tests: list[str], tree: Path) -> int:
    os.environ["PYTHONPATH"] = f"{tree}:{tree}/reports"
    sys.path[:0] = [str(tree), f"{tree}/reports"]
    os.chdir(tree)
    words = ["-x", "-q", "-m", "not slow", "-k", f"not ({PASSED_OVER})"]
    words += ["-p", "no:cacheprovider", "--basetemp", f"{tree}/tmp"]
    with open("log.txt", "w") as file, redirect_stdout(file), redirect_stderr(file):
        return sys.modules["pytest"].main([*words, *tests])


def main(numbers: list[int]) -> int:
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    survivors, started = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_tree(Path(folder))
        for number in numbers or range(1, len(BUGS) + 1):
            planted, begun = BUGS[number - 1], time.monotonic()
            noticed = noticed_by(planted, tree)
            told = noticed.partition("::")[2].partition(" ")[0] or noticed[:60]
            word = told or (f"unseen: {planted.unseen}" if planted.unseen else "SURVIVES")
            survivors += [] if noticed or planted.unseen else [number]
            seconds = f"{time.monotonic() - begun:5.1f} s"
            print(f"{number:4d} {seconds} {planted.file}: {planted.what}: {word}", flush=True)
    print(f"{len(survivors)} survive: {survivors}; {time.monotonic() - started:.0f} s in all")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main([int(word) for word in sys.argv[1:]]))
