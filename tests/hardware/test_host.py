"""What a measurement says about the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hasn_edge.hardware import host


def test_this_machine_is_described():
    found = host.describe_host()
    assert found["python"].count(".") == 2
    assert int(found["cores"]) >= 1
    assert host.memory_bytes() > host.available_memory_bytes() > 0
    assert host.peak_memory_bytes() > 10_000_000


def test_the_work_of_all_cpus_is_in_seconds(tmp_path: Path) -> None:
    assert host.busy_cpu_seconds() > 0
    assert host.busy_cpu_seconds(tmp_path) is None
    (tmp_path / "proc").mkdir()
    # user nice system idle iowait irq softirq steal guest guest_nice, in hundredths; guests are users.
    (tmp_path / "proc/stat").write_text("cpu  100 20 30 5000 700 4 5 6 50 0\ncpu0 1 2\n")
    assert host.busy_cpu_seconds(tmp_path) == pytest.approx(1.65)


def test_a_container_may_have_less_memory_than_the_machine(tmp_path: Path) -> None:
    assert host.available_memory_bytes(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  99 kB\nMemAvailable:   4096 kB\n")
    assert host.available_memory_bytes(tmp_path) == 4 << 20
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000000\n")
    # No limit; one above what the machine has; one below; one that came when more was used already.
    for limit, left in (("max", 4 << 20), ("9000000", 4 << 20), ("3000000", 2_000_000), ("500000", 0)):
        (group / "memory.max").write_text(limit + "\n")
        assert host.available_memory_bytes(tmp_path) == left


def test_cores_are_counted_once_and_quotas_hold(tmp_path: Path) -> None:
    def cores() -> int:
        return host.compute_cores(root=tmp_path, allowed=range(4))

    assert cores() == 4  # nothing known about siblings
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    assert cores() == 2
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    for text, expected in (("max 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("?", 2)):
        (tmp_path / "sys/fs/cgroup/cpu.max").write_text(text + "\n")
        assert cores() == expected


def groups(root: Path, own: str, **files: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemAvailable:   4096 kB\n")
    (root / "proc/self/cgroup").write_text(own)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_control_groups_of_version_1_count(tmp_path: Path) -> None:
    files = {
        "memory__memory_dot_limit_in_bytes": "3000000",
        "memory__memory_dot_usage_in_bytes": "1000000",
        "memory__job__memory_dot_limit_in_bytes": "9223372036854771712",  # none
        "memory__job__memory_dot_usage_in_bytes": "1000000",
    }
    groups(tmp_path, "5:cpu,cpuacct:/x\n4:memory:/job\n", **files)
    assert host.available_memory_bytes(tmp_path) == 2_000_000
    (tmp_path / "sys/fs/cgroup/memory/job/memory.limit_in_bytes").write_text("1500000")
    assert host.available_memory_bytes(tmp_path) == 500_000
    # 200,000 bytes are files that the system keeps in memory
    (tmp_path / "sys/fs/cgroup/memory/job/memory.stat").write_text(
        "cache 300000\ntotal_inactive_file 200000\n"
    )
    assert host.available_memory_bytes(tmp_path) == 700_000


def test_the_group_that_systemd_puts_a_service_in_counts(tmp_path: Path) -> None:
    files = {
        "system_dot_slice__a_dot_service__memory_dot_max": "3000000",
        "system_dot_slice__a_dot_service__memory_dot_current": "1000000",
        "system_dot_slice__memory_dot_max": "1600000",
        "system_dot_slice__memory_dot_current": "1200000",
    }
    groups(tmp_path, "0::/system.slice/a.service\n", **files)
    assert host.available_memory_bytes(tmp_path) == 400_000


def test_a_limit_of_the_address_space_counts(tmp_path: Path) -> None:
    groups(tmp_path, "0::/\n")
    assert host.available_memory_bytes(tmp_path, address_space=10_000_000) == 4 << 20
    (tmp_path / "proc/self/status").write_text("VmPeak:  9 kB\nVmSize:    1000 kB\n")
    assert host.available_memory_bytes(tmp_path, address_space=2_000_000) == 2_000_000 - 1_024_000
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 31, -1)); "
        "from hasn_edge.hardware import host; print(host.available_memory_bytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert 0 < int(done.stdout) < 1 << 31
