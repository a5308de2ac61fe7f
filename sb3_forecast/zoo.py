"""``python -m sb3_forecast.zoo``: see :mod:`sb3_forecast.cli.zoo`."""

from sb3_forecast.cli.zoo import main

if __name__ == "__main__":
    main()
