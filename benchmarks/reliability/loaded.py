"""All that a training session needs, imported once by the process that sessions are forked from.

What is there then stays: a session that collects garbage would look at all of it, for a second, and make it its own copy.
"""

import gc
import importlib
import signal

LOADED = (
    "apt_engine.cli.main",
    "apt_engine.training.trainer",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.clip.modeling_clip",
    "peft",
)

for name in LOADED:
    importlib.import_module(name)
gc.collect()
gc.freeze()
# What is run in the background or under nohup ignores these, and so would each session, which is sent them on purpose.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
