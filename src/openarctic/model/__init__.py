"""The hybrid transformer in torch. Importing this room teaches transformers' Auto classes the model type `arctic`:
`AutoModelForCausalLM.from_pretrained(folder)` then loads any Arctic checkpoint, without remote code, and
`AutoTokenizer` its tokenizer.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from openarctic.model.config import ArcticConfig
from openarctic.model.hybrid import ArcticForCausalLM, ArcticModel, parameter_counts
from openarctic.model.load import load_model
from openarctic.model.tokenizer import ArcticTokenizer, register

AutoConfig.register("arctic", ArcticConfig, exist_ok=True)
AutoModel.register(ArcticConfig, ArcticModel, exist_ok=True)
AutoModelForCausalLM.register(ArcticConfig, ArcticForCausalLM, exist_ok=True)
register()

__all__ = ["ArcticConfig", "ArcticForCausalLM", "ArcticModel", "ArcticTokenizer", "load_model", "parameter_counts"]
