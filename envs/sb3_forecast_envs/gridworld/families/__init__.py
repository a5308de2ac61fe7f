"""The task families of this package. The rare mode of each fails for a different reason."""

from sb3_forecast_envs.gridworld.families.bridge import Bridge
from sb3_forecast_envs.gridworld.families.decoy import Decoy
from sb3_forecast_envs.gridworld.families.thin_ice import ThinIce
from sb3_forecast_envs.gridworld.families.vault import Vault
from sb3_forecast_envs.gridworld.families.wind import Wind

__all__ = ["Bridge", "Decoy", "ThinIce", "Vault", "Wind"]
