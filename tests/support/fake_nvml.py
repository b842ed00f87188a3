"""NVIDIA's management library, faked: cards by name with power, clocks and temperature."""

from __future__ import annotations

from types import SimpleNamespace


class NVMLError(Exception):
    pass


class FakeNvml(SimpleNamespace):
    """The functions of pynvml that are used, for cards by name, the first at bus 1, the second at 2 and so
    on; what a card lacks raises as NVML does."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, *names, driver=True, mig=None, lacks=()):
        super().__init__(names=names, open=0)
        self.driver, self.mig = driver, mig
        for name in lacks:
            setattr(self, name, self._not_supported)

    @staticmethod
    def _not_supported(*args):
        raise NVMLError("Not Supported")

    def nvmlInit(self):
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetHandleByPciBusId(self, bus_id):
        domain, bus, rest = bus_id.decode().split(":")
        if (int(domain, 16), rest) != (0, "00.0") or int(bus, 16) > len(self.names):
            raise NVMLError("Not Found")
        return int(bus, 16) - 1

    def nvmlDeviceGetMigMode(self, card):
        return self._not_supported() if self.mig is None else [self.mig, self.mig]

    def nvmlDeviceGetName(self, card):
        return self.names[card].encode()

    def nvmlSystemGetDriverVersion(self):
        return "580.65.06"

    def nvmlDeviceGetEnforcedPowerLimit(self, card):
        return 450_000

    def nvmlDeviceGetPowerUsage(self, card):
        return 312_345 - 100_000 * card

    def nvmlDeviceGetClockInfo(self, card, kind):
        return {1: 2520, 2: 10501}[kind]

    def nvmlDeviceGetMaxClockInfo(self, card, kind):
        return 3105

    def nvmlDeviceGetPerformanceState(self, card):
        return 2

    def nvmlDeviceGetTemperature(self, card, kind):
        return 61

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, card):
        return 0x24
