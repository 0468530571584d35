"""
What did the classifier look at?
================================

Which of four movements does a smart watch record? Six channels, 100 steps of a tenth of
a second. We train a classifier, see which channels and which part of the time it needs,
and which steps of one recording decided.
"""

# %%
# Training
# --------
import matplotlib.pyplot as plt
import numpy as np
from sklearn.dummy import DummyClassifier
from sktime.datasets import load_basic_motions

from sklstm import LSTMClassifier
from sklstm.inspection import (
    channel_importance,
    integrated_gradients,
    window_importance,
)
from sklstm.plotting import (
    AttributionDisplay,
    EmbeddingDisplay,
    GateDisplay,
    TrainingDisplay,
)

X_train, y_train = load_basic_motions(split="train", return_type="numpy3D")
X_test, y_test = load_basic_motions(split="test", return_type="numpy3D")
model = LSTMClassifier(
    layout="channel-major", hidden_size=32, max_iter=60, random_state=0
)
model.fit(X_train, y_train)
TrainingDisplay.from_estimator(model)

# %%
# Channels and times that matter
# ------------------------------
# The score's fall when a channel, or a tenth of the time, is exchanged between test
# recordings; bars are the standard deviation over ten repeats. The log loss sees more
# than the accuracy: a model that is sure of itself has something to lose before it errs.
settings = {"scoring": "neg_log_loss", "n_repeats": 10, "random_state": 0}
channels = channel_importance(model, X_test, y_test, **settings)
windows = window_importance(model, X_test, y_test, n_windows=10, **settings)
_, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
axes[0].bar(range(6), channels.importances_mean, yerr=channels.importances_std,
            color="#0072B2", capsize=3)  # fmt: skip
axes[0].set(xlabel="Channel", ylabel="Increase of the log loss")
middle = windows.windows.mean(axis=1)
axes[1].bar(middle, windows.importances_mean, width=8, yerr=windows.importances_std,
            color="#0072B2", capsize=3)  # fmt: skip
axes[1].set(xlabel="Time step")

# %%
# One recording
# -------------
# Integrated gradients say how much each value speaks for the class, on top of the mean
# recording: red for, blue against. They add up to the logit, less that of the mean.
sample = int(np.flatnonzero(y_test == "badminton")[0])
# sphinx_gallery_thumbnail_number = 3
AttributionDisplay.from_estimator(model, X_test, sample=sample)
result = integrated_gradients(model, X_test)
print(f"Largest gap to the sum, of 40 recordings: {np.abs(result.gap).max():.4f}")

# %%
# Meanwhile in the network: the forget gates decide how much of each unit's state is
# kept.
GateDisplay.from_estimator(model, X_test, sample=sample)

# %%
# All recordings
# --------------
# The state that the readout sees separates the movements.
EmbeddingDisplay.from_estimator(model, X_test, y_test)
plt.show()

# %%
# Beside a baseline
# -----------------
dummy = DummyClassifier().fit(np.zeros((len(y_train), 1)), y_train)
baseline = dummy.score(np.zeros((len(y_test), 1)), y_test)
print(f"Accuracy on 40 test recordings: {model.score(X_test, y_test):.3f}")
print(f"Accuracy of the most frequent class: {baseline:.3f}")
