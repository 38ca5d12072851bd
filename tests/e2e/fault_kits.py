"""Each push exporter with a backend of its protocol, for the tests of faults."""

from __future__ import annotations

from tests.e2e.fault_kit import Kit
from tests.e2e.fault_kit_of_azure_monitor import AzureMonitorKit
from tests.e2e.fault_kit_of_otlp import OtlpGrpcKit, OtlpHttpKit
from tests.e2e.fault_kit_of_remote_write import RemoteWrite2Kit, RemoteWriteKit

KITS: dict[str, type[Kit]] = {
    kit.name: kit
    for kit in (OtlpHttpKit, OtlpGrpcKit, RemoteWriteKit, RemoteWrite2Kit, AzureMonitorKit)
}
WITH_BEARER = [name for name, kit in KITS.items() if kit.bearer]
TAKING_PARTS = [name for name, kit in KITS.items() if kit.partly]
WITH_EVENTS = [name for name, kit in KITS.items() if kit.has_events]
