"""Prints what TensorBoard's own reader finds in a folder of event files, as JSON: how many steps each tag has, and the
parameters in the table of runs."""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

KINDS = {"scalars": "Scalars", "histograms": "Histograms", "images": "Images", "tensors": "Tensors"}

# Without a limit, the reader keeps a sample.
reader = EventAccumulator(sys.argv[1], size_guidance=dict.fromkeys(KINDS, 0))
reader.Reload()
found = {
    kind: {tag: len(getattr(reader, method)(tag)) for tag in reader.Tags()[kind]} for kind, method in KINDS.items()
}
images = {tag: [(image.width, image.height) for image in reader.Images(tag)] for tag in reader.Tags()["images"]}
table = {}
for tag, content in reader.PluginTagToContent("hparams").items():
    data = plugin_data_pb2.HParamsPluginData.FromString(content)
    if data.HasField("session_start_info"):
        values = data.session_start_info.hparams
        table["parameters"] = {key: getattr(value, value.WhichOneof("kind")) for key, value in values.items()}
    elif data.HasField("experiment"):
        table["metrics"] = [metric.name.tag for metric in data.experiment.metric_infos]
    elif data.HasField("session_end_info"):
        table["status"] = data.session_end_info.status
print(json.dumps({**found, "sizes": images, "table": table}))
