#!/usr/bin/env bash
# Lightning 2.6.6 with torch 2.15.0 (2026-12-01): a Trainer that counts epochs forgets a loader's state one resume later.
# A loader with state_dict and load_state_dict has 6 batches an epoch; checkpoints are saved every 4 steps. A job that is resumed from the
# checkpoint of an epoch's last step (12) continues rightly, but the checkpoint that this resumed job then saves in the middle of the next
# epoch (16) brings no position back: the epoch starts at its first batch again, without a warning. With max_steps in place of
# max_epochs, and all else alike, each batch comes once.
# Exits with 1 and "changed" where this is no longer so.
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 lightning==2.6.6 numpy==2.3.5
cat > "$home/look.py" <<'P'
import logging
import sys
import tempfile
import warnings

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

import lightning
import torch

BATCHES, EPOCHS = 6, 3


class Numbers:
    """0 to 5 in epoch 0, 6 to 11 in epoch 1, …; its state is that of what it handed out."""

    def __init__(self):
        self.done = 0

    def __len__(self):
        return BATCHES

    def __iter__(self):
        first = self.done
        for number in range(first, (first // BATCHES + 1) * BATCHES):
            self.done = number + 1
            yield torch.tensor([number])

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.done = state["done"]


class Module(lightning.LightningModule):
    def __init__(self, stop):
        super().__init__()
        self.weight, self.stop, self.seen = torch.nn.Parameter(torch.zeros(1)), stop, []

    def train_dataloader(self):
        return Numbers()

    def training_step(self, batch, index):
        if self.global_step == self.stop:
            raise KeyError("the job ends here")
        self.seen.append(int(batch))
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def last_life(**length):
    """What the third life of a job sees: the first ends after step 13, the second after step 16."""
    with tempfile.TemporaryDirectory() as folder:
        for stop in (13, 16, None):
            keep = lightning.pytorch.callbacks.ModelCheckpoint(folder, every_n_train_steps=4, save_last=True)
            quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
            module = Module(stop)
            try:
                lightning.Trainer(**length, accelerator="cpu", callbacks=[keep], **quiet).fit(module, ckpt_path="last")
            except KeyError:
                pass
    return module.seen


by_epochs, by_steps = last_life(max_epochs=EPOCHS), last_life(max_steps=BATCHES * EPOCHS)
print(f"resumed from step 16 of 18, max_epochs={EPOCHS}: {by_epochs}")
print(f"resumed from step 16 of 18, max_steps={BATCHES * EPOCHS}: {by_steps}")
sys.exit(0 if by_steps == [16, 17] and by_epochs != [16, 17] else 1)
P
"$home/venv/bin/python" "$home/look.py" || { echo changed; exit 1; }
