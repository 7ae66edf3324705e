"""What a search imports, as it starts and on its way; collections of garbage in a fork pass over all of it."""

import gc
from importlib import import_module

_ON_ITS_WAY = (
    "autoreap.cli",
    "autoreap.commands.search",
    "autoreap.jobs",
    "autoreap.search.tracking",
    "alembic.command",
    "librosa.core.audio",
    "matplotlib.backends.backend_agg",
    "matplotlib.pyplot",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "optuna.storages._rdb.models",
    "sqlalchemy.dialects.sqlite",
    "transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe",
    "transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe",
    "whisper_normalizer.english",
)

for _module in _ON_ITS_WAY:
    import_module(_module)
gc.collect()
gc.freeze()
