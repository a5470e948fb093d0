"""A space of one's own: a small convolutional network with an elastic width, trained and searched on digits."""

from ray import tune

import manynet as mn


class Net(mn.Supernet):
    def __init__(self):
        super().__init__()
        self.stem = mn.elastic.Conv2d(1, 64, kernel_size=3, padding=1)
        self.norm = mn.elastic.BatchNorm2d(64)
        self.head = mn.elastic.Linear(64, 10)

    def forward(self, x, arch):
        width = arch["width"]
        x = self.norm(self.stem(x, out_channels=width), width).relu()
        return self.head(x.mean((2, 3)), in_features=width)


space = mn.SearchSpace(
    "tiny-conv",
    {"width": tune.choice([8, 16, 32, 64])},
    Net,
    task=mn.tasks.Classification(num_classes=10),
    input_shape=(1, 8, 8),
)
study = mn.Study("runs/tiny-conv", space, data="digits")
study.train(strategy="trainers.sandwich:Sandwich", steps=300, learning_rate=1e-2)
study.search(objectives=["accuracy:max", "latency@host/torch:min"], evaluations=4)
study.finalists(count=2, steps=200, anchors=4, anchor_steps=200)
print(study.best("accuracy"), study.report())
