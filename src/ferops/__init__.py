"""ferops: facial expression recognition from dataset to served, monitored model.

Importing the package is cheap and switches off the telemetry of the tools it drives, unless the
environment already says otherwise. Nothing heavy is imported here.
"""

import os

__version__ = "0.1.0"

#: Every tool below phones home by default. A user's own setting wins.
TELEMETRY_OFF = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
for _name, _value in TELEMETRY_OFF.items():
    os.environ.setdefault(_name, _value)
