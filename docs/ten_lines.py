from simclr_core.config import PretrainConfig
from simclr_core.data import load_dataset
from simclr_core.evaluate import encode, knn_accuracy

data = load_dataset("digits")
config = PretrainConfig("digits", (0, 400), augmentation="digits", batch_size=100, epochs=5)
training = config.training(data)
for row in filter(None, training):
    print(row["epoch"], row["loss"])
h = [encode(training.encoder, s.images, data.mean, data.std) for s in (data.train, data.test)]
print(knn_accuracy((h[0], data.train.labels), (h[1], data.test.labels)))
