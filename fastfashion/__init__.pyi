from fastfashion.api import compare as compare
from fastfashion.api import evaluate_run as evaluate_run
from fastfashion.api import export as export
from fastfashion.api import open_loader as open_loader
from fastfashion.api import open_packed_set as open_packed_set
from fastfashion.api import open_run as open_run
from fastfashion.api import predict as predict
from fastfashion.api import shard as shard
from fastfashion.api import synth as synth
from fastfashion.api import train_run as train_run

__version__: str
