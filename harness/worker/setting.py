"""What a step that runs by itself may need beside its inputs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from harness.worker.index import colbert_config, refuse_remote_code, require_device, skip_extensions


class Setting:
    """What a step may need beside its inputs: the cell, colbert-ai's configuration and, for encoding, the model."""

    def __init__(self, cell: dict[str, Any]) -> None:
        self.cell = cell
        self._model: Any = None

    @classmethod
    def imported(cls, cell: dict[str, Any], phases: Any) -> Setting:
        """The setting of a cell, with colbert-ai imported in phase `import`.

        Raises:
            Ended: `unsupported` where the cell cannot run here.
        """
        require_device(cell)
        with phases("import"):
            skip_extensions(cell)
            refuse_remote_code(cell["checkpoint"])
        return cls(cell)

    @property
    def gpu(self) -> bool:
        """Whether the cell runs on a GPU."""
        return bool(self.cell["device"] != "cpu")

    @property
    def has_model(self) -> bool:
        """Whether the model has been loaded."""
        return self._model is not None

    def config(self) -> Any:
        """colbert-ai's configuration, as the index job makes it."""
        config = colbert_config(self.cell, gpus=1 if self.gpu else 0)
        config.nranks, config.rank = 1, 0
        return config

    def model(self) -> Any:
        """The checkpoint, loaded once."""
        if self._model is None:
            from colbert.modeling.checkpoint import Checkpoint

            self._model = Checkpoint(self.cell["checkpoint"], colbert_config=self.config(), verbose=0)
            if self.gpu:
                self._model = self._model.cuda()
            self._model.eval()
        return self._model

    def indexer(self, **more: Any) -> Any:
        """A stand-in for `CollectionIndexer` with only what its numeric methods read."""
        return SimpleNamespace(use_gpu=self.gpu, config=self.config(), rank=0, verbose=0, **more)
