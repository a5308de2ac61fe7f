"""The task families that come with the package, each with a rare mode that fails for a reason of its own."""

from sb3_forecast_envs.gridworld.families.bridge import Bridge
from sb3_forecast_envs.gridworld.families.decoy import Decoy
from sb3_forecast_envs.gridworld.families.thin_ice import ThinIce
from sb3_forecast_envs.gridworld.families.vault import Vault
from sb3_forecast_envs.gridworld.families.wind import Wind

__all__ = ["Bridge", "Decoy", "ThinIce", "Vault", "Wind"]
