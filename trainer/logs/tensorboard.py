"""Rows as an event file of TensorBoard, written and read with its own modules. Needs the extra `logs`."""

import io
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SourceMetadata
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from verification.report.course import BEFORE, ORDER, Position, Row
from verification.units import Digest

FRAME = 16
"""Bytes that a file has for each event beside the event's own: its length, and two checksums."""


class EventFile:
    """The form of the file in a folder; TensorBoard keeps values as float32. Each figure's description is its unit."""

    def __init__(self, run: Digest) -> None:
        """Hold rows of a run, which the first event names."""
        source = SourceMetadata(writer=f"proofswarm run {run.hex()}")
        self.heading = _framed(Event(file_version="brain.Event:2", source_metadata=source))
        self.opening = self.heading

    @staticmethod
    def inside(folder: Path, run: Digest) -> Path:
        """Return the file of a run in the folder that TensorBoard is given: each run has a folder there, as it asks."""
        return folder / run.hex()[:16] / "events.out.tfevents.0000000000.proofswarm"

    def encode(self, row: Row) -> bytes:
        """Return an event."""
        metadata = create_summary_metadata(display_name="", description=row.unit)
        value = Summary.Value(tag=row.name, simple_value=row.value, metadata=metadata)
        return _framed(Event(wall_time=row.at / 1000, step=row.round, summary=Summary(value=[value])))

    def last(self, path: Path) -> tuple[int, Position]:
        """Return the length of whole events and the last row's position; raises ValueError for others' events."""
        whole, newest = 0, b""
        for newest in RawEventFileLoader(str(path.resolve())).Load():
            whole += FRAME + len(newest)
        if whole <= len(self.heading):
            return whole, BEFORE
        try:
            event = Event.FromString(newest)
            (value,) = event.summary.value
            return whole, (event.step, ORDER[value.tag])
        except (DecodeError, KeyError) as error:
            raise ValueError from error


def _framed(event: Event) -> bytes:
    made = io.BytesIO()
    RecordWriter(made).write(event.SerializeToString(deterministic=True))
    return made.getvalue()
