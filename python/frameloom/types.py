"""What the HTTP API takes and answers, by the names of its OpenAPI document.

These are dictionaries as they come from JSON. A test compares them with the document.
"""

from typing import Any, Literal, NotRequired, TypedDict

State = Literal["queued", "planning", "running", "assembling", "succeeded", "failed", "cancelled"]
SegmentState = Literal["waiting", "running", "detected", "retried", "done"]

#: States that a job leaves only by being tried again.
OVER: frozenset[State] = frozenset(("succeeded", "failed", "cancelled"))


class Problem(TypedDict):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    kind: str


class ProgressView(TypedDict):
    """How far a job is."""

    stage: str
    frames: int
    total: NotRequired[int | None]
    percent: NotRequired[float | None]
    fps: float
    realtime_ratio: NotRequired[float | None]
    eta_seconds: NotRequired[float | None]
    waiting: int
    running: int
    retried: int


class JobView(TypedDict):
    """A job."""

    id: str
    state: State
    waiting: NotRequired[str | None]
    owner: str
    name: str
    filters: list[str]
    container: str
    priority: int
    created_at: str
    ended_at: NotRequired[str | None]
    progress: ProgressView
    segments: NotRequired[list[SegmentState]]
    messages: NotRequired[list[str]]
    error: NotRequired[Problem | None]
    upload_url: NotRequired[str | None]
    uploaded: NotRequired[int | None]
    output_url: NotRequired[str | None]
    detections_url: NotRequired[str | None]
    detections_only: NotRequired[str | None]
    source_hidden: bool
    expires_at: NotRequired[str | None]
    source_expires_at: NotRequired[str | None]


class JobList(TypedDict):
    """A page of jobs."""

    jobs: list[JobView]
    next: NotRequired[str | None]
    total: int


class ScaleView(TypedDict):
    """How many slots the open jobs could use, and how many there are."""

    slots_wanted: int
    slots: int
    jobs: int


class WorkerView(TypedDict):
    """A worker node."""

    id: str
    name: NotRequired[str | None]
    host: NotRequired[str | None]
    engine: NotRequired[str | None]
    versions: NotRequired[str | None]
    slots: NotRequired[int | None]
    gpu_slots: NotRequired[int | None]
    free_slots: int
    held: int
    load: float
    silent_seconds: float
    lives: bool
    apart: NotRequired[str | None]


class EncoderRequest(TypedDict, total=False):
    """How the output is encoded."""

    codec: str | None
    encoder: str | None
    crf: float | None
    preset: str | None
    lossless: bool
    options: dict[str, str]


class OutputRequest(TypedDict):
    """Where an output goes beside the store."""

    path: str


class FileRequest(TypedDict):
    """A file that a filter takes, known by its content."""

    name: str
    sha256: str
    size: int


class FileView(TypedDict):
    """A file that was sent."""

    sha256: str
    size: int
    expires_at: str


class FileList(TypedDict):
    """The files that filters may take."""

    catalogue: list[str]
    files: list[FileView]


class SourceRequest(TypedDict, total=False):
    """Where a source comes from."""

    path: str | None
    upload: bool
    name: str | None
    size: int | None


# "from" is no name that a class may have.
JobRequest = TypedDict(
    "JobRequest",
    {
        "source": SourceRequest,
        "filters": list[str],
        "files": list[FileRequest],
        "encoder": EncoderRequest,
        "container": str | None,
        "output": OutputRequest | None,
        "segment": float | None,
        "from": str | None,
        "to": str | None,
        "stream": int | None,
        "no_audio": bool,
        "strict_streams": bool,
        "keep_depth": bool,
        "verify_source": bool,
        "granularity": str | None,
        "on_error": str | None,
        "detections_only": str | None,
        "keep_metadata": list[str],
        "reveal_previews": bool,
        "frame_metrics": bool,
        "priority": int | None,
        "webhook": str | None,
    },
    total=False,
)


class JobOptions(TypedDict, total=False):
    """What ``submit`` takes beside source and filters.

    ``from_`` and ``to`` are seconds or ``[hh:]mm:ss[.f]``; ``encoder_options`` are further
    options of the encoder; ``output`` is a path on the server that it may write to; ``files`` are
    files of filters whose content was sent to ``/v1/files/SHA256`` before.
    """

    codec: str
    encoder: str
    crf: float
    preset: str
    lossless: bool
    encoder_options: dict[str, str]
    container: str
    output: str
    segment: float
    from_: str
    to: str
    stream: int
    no_audio: bool
    strict_streams: bool
    keep_depth: bool
    verify_source: bool
    granularity: str
    on_error: str
    files: list[FileRequest]
    detections_only: str
    keep_metadata: list[str]
    reveal_previews: bool
    frame_metrics: bool
    priority: int
    webhook: str


class FilterParam(TypedDict):
    """A parameter of a filter; the API's document leaves these open."""

    name: str
    type: str
    min: NotRequired[float]
    max: NotRequired[float]
    odd: NotRequired[bool]
    values: NotRequired[list[str]]
    words: NotRequired[list[str]]
    default: str | None
    required: bool
    help: str


class Filter(TypedDict):
    """A filter that a server has."""

    name: str
    summary: str
    details: str
    example: str
    params: list[FilterParam]


class Event(TypedDict):
    """A server-sent event of a job: ``state``, ``planned``, ``task``, ``progress`` or ``end``."""

    id: int
    event: str
    data: dict[str, Any]
