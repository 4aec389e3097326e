"""r-GRPO as a LightningModule: rollouts, rewards, advantages, loss.

Start with `rgrpo.RGRPO.training_step`. Nothing here imports tracking.
"""
