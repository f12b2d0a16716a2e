"""The records that travel the wire between the service and its clients: one definition for both.

Sizes are bytes, durations seconds, times ISO 8601 in UTC (``datetime`` with a zone). A field is
``None`` where the machine or the file does not tell; a number is never made up.
"""

from cyber_inference_tui.records.hub import (
    DownloadRecord,
    DownloadStatus,
    HubFileRecord,
    HubFilesRecord,
    HubModelRecord,
)
from cyber_inference_tui.records.logs import (
    LogEvent,
    LogLevel,
    LogLine,
    LogPage,
    LogRecord,
    LogRun,
    NumberedLine,
)
from cyber_inference_tui.records.machine import (
    CpuRecord,
    DeviceKind,
    DeviceRecord,
    DiskRecord,
    FanRecord,
    GpuRecord,
    MemoryRecord,
    ModelUsage,
    NetworkRecord,
    ResourceSample,
    SwapRecord,
)
from cyber_inference_tui.records.models import (
    FileRecord,
    Fit,
    MemoryAtContext,
    MemoryPart,
    ModelDetails,
    ModelRecord,
    ModelSettingRecord,
    ModelStatus,
    SessionRecord,
)
from cyber_inference_tui.records.requests import (
    ActiveRequestRecord,
    ModelTotals,
    RequestPhase,
    RequestRecord,
    WaitingRecord,
)
from cyber_inference_tui.records.service import (
    ConfigCheckRecord,
    ConfigFileRecord,
    ConfigValueRecord,
    GapEvent,
    LlamaServerRecord,
    ServiceEvent,
    SettingEffect,
    StatusRecord,
)
from cyber_inference_tui.records.wire import to_json

__all__ = [
    "ActiveRequestRecord",
    "ConfigCheckRecord",
    "ConfigFileRecord",
    "ConfigValueRecord",
    "CpuRecord",
    "DeviceKind",
    "DeviceRecord",
    "DiskRecord",
    "DownloadRecord",
    "DownloadStatus",
    "FanRecord",
    "FileRecord",
    "Fit",
    "GapEvent",
    "GpuRecord",
    "HubFileRecord",
    "HubFilesRecord",
    "HubModelRecord",
    "LlamaServerRecord",
    "LogEvent",
    "LogLevel",
    "LogLine",
    "LogPage",
    "LogRecord",
    "LogRun",
    "MemoryAtContext",
    "MemoryPart",
    "MemoryRecord",
    "ModelDetails",
    "ModelRecord",
    "ModelSettingRecord",
    "ModelStatus",
    "ModelTotals",
    "ModelUsage",
    "NetworkRecord",
    "NumberedLine",
    "RequestPhase",
    "RequestRecord",
    "ResourceSample",
    "ServiceEvent",
    "SessionRecord",
    "SettingEffect",
    "StatusRecord",
    "SwapRecord",
    "WaitingRecord",
    "to_json",
]
