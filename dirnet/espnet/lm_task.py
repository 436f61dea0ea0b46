"""ESPnet's language-model task with the recipe's trainer: a line an epoch, curves, kills survived."""

from __future__ import annotations

from dirnet.espnet.task import RecipeTrainer
from dirnet.espnet.versions import no_downloads

with no_downloads():
    from espnet2.tasks.lm import LMTask


class RecipeLMTask(LMTask):
    """`espnet2.tasks.lm.LMTask`, what `espnet2.bin.lm_train` runs, with `RecipeTrainer`."""

    trainer = RecipeTrainer
