"""From what was found on a machine to what its user should know: pure functions of facts (doctor/doctor.py).

ok       as it should be
note     worth knowing, nothing to mend
gap      slower than it could be, or one way of several is closed
broken   something that was promised cannot work
"""

from dataclasses import dataclass
from typing import Any

from fastfashion.load.crops import HOW_TO_BUILD

MIN_MEMORY = 4 << 30  # training a ResNet18 on small images has 2.3 GB resident
MIN_FREE = 5 << 30
SLOW_DISK = 50e6  # bytes a second
PROBED = {"gpu": "GPU", "dali": "DALI", "threads": "CPU loader", "kaggle": "Kaggle", "hub": "Hub"}  # what a probe's findings are called
Facts = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: str  # ok, note, gap, broken
    found: str
    advice: str | None = None


def judge(facts: Facts) -> list[Finding]:
    """All findings, in the order in which they are read."""
    gpu = facts["gpu"]
    findings = [
        python(facts["machine"]),
        cores(facts["machine"]),
        memory(facts["machine"]),
        gpus(gpu),
        driver(gpu),
        dali(facts["dali"], gpu),
        compiled(facts["threads"]),
        disk(facts["disk"]),
        data(facts["data"]),
        kaggle(facts["kaggle"], bool(facts["data"]["sources"])),
        hub(facts["hub"]),
    ]
    late = {name for probe, name in PROBED.items() if facts[probe].get("late")}
    return [_unknown(finding.name, facts) if finding.name in late else finding for finding in findings]


def _unknown(name: str, facts: Facts) -> Finding:
    probe = next(probe for probe, named in PROBED.items() if named == name)
    advice = "this machine is very busy, or a driver or a file system hangs: run this again when it is idle"
    return Finding(name=name, state="gap", found=f"not known: {facts[probe]['error']}", advice=advice)


def python(machine: Facts) -> Finding:
    version = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in machine["python"].split(".")[:3])
    found = f"{machine['python']}, {machine['system']}"
    if version < (3, 12, 7) or (3, 13) <= version < (3, 13, 1):
        advice = "torchrun of this Python does not take --nproc (gh-58573): start with fastfashion train --nproc 4, which any Python does"
        return Finding(name="Python", state="note", found=found, advice=advice)
    return Finding(name="Python", state="ok", found=found)


def cores(machine: Facts) -> Finding:
    usable, quota = machine["cores"], machine["core_quota"]
    found = f"{usable}" + (f" of {machine['all_cores']}" if machine["all_cores"] > usable else "")
    if quota is not None and quota < usable:
        advice = f"the container's quota is less than its cores: give --workers {max(1, int(quota))}, or raise the quota"
        return Finding(name="cores", state="gap", found=f"{found}, time of {quota:.1f}", advice=advice)
    return Finding(name="cores", state="ok", found=found)


def memory(machine: Facts) -> Finding:
    found = f"{gigabytes(machine['memory_bytes'])}, {gigabytes(machine['available_bytes'])} available"
    if machine["available_bytes"] < MIN_MEMORY:
        advice = f"training wants {gigabytes(MIN_MEMORY)}: end other programs, or take a smaller --batch-size and one process"
        return Finding(name="memory", state="gap", found=found, advice=advice)
    return Finding(name="memory", state="ok", found=found)


def gpus(gpu: Facts) -> Finding:
    if "torch" not in gpu:
        whole = f"torch cannot use this machine: {gpu['error']}"
        return Finding(name="GPU", state="broken", found=whole, advice="install fastfashion again, into an empty environment")
    names = ", ".join(f"{one['name']} ({gigabytes(one['memory_bytes'])}, sm {one['capability']})" for one in gpu["gpus"])
    if gpu["gpus"] and "error" in gpu:
        advice = f"see whether nvidia-smi shows it in order; torch {gpu['torch']} must be built for its sm"
        return Finding(name="GPU", state="broken", found=f"{names} does not compute: {gpu['error']}", advice=advice)
    if gpu["gpus"]:
        return Finding(name="GPU", state="ok", found=names)
    if gpu["driver_gpus"]:
        found = f"{', '.join(gpu['driver_gpus'])}, which torch {gpu['torch']} does not see"
        return Finding(name="GPU", state="broken", found=found, advice=_why_unseen(gpu))
    advice = "loading and training run on the CPU: small images (80x64) take minutes an epoch there, 224x224 ten times as long"
    return Finding(name="GPU", state="note", found="none", advice=advice)


def _why_unseen(gpu: Facts) -> str:
    built, highest = gpu["torch_cuda"], gpu["driver_cuda"]
    if built is None:
        return "this torch is built for CPUs: install one that is built for CUDA"
    if highest is not None and major(highest) < major(built):
        return f"torch is for CUDA {built}, the driver for up to {highest}: update the driver, or install a torch for CUDA {major(highest)}"
    return "see whether CUDA_VISIBLE_DEVICES hides it, and whether the container was started with its GPUs (docker run --gpus all)"


def driver(gpu: Facts) -> Finding:
    if "torch" not in gpu:
        return Finding(name="driver, CUDA", state="note", found="not known")
    built = f"torch {gpu['torch']} is built for {'CUDA ' + gpu['torch_cuda'] if gpu['torch_cuda'] else 'CPUs'}"
    if not gpu["driver_cuda"]:
        return Finding(name="driver, CUDA", state="note", found=f"no NVIDIA driver; {built}")
    return Finding(name="driver, CUDA", state="ok", found=f"{gpu['driver'] or 'driver'}, up to CUDA {gpu['driver_cuda']}; {built}")


def dali(dali: Facts, gpu: Facts) -> Finding:
    """On a GPU, DALI is what training loads with; on a CPU it is one of three."""
    has_gpu = bool(gpu.get("gpus") or gpu.get("driver_gpus"))
    worst = "broken" if has_gpu else "gap"
    builds = dali.get("builds", {})
    found = ", ".join(f"{name} {version}" for name, version in builds.items())
    fitting = f"nvidia-dali-cuda{13 if major(gpu.get('driver_cuda') or '12') >= 13 else 12}0"
    instead = "or load with --set data.backend=threads"
    if not builds:
        advice = f"pip install {fitting}, {instead}"
        return Finding(name="DALI", state=worst, found=dali.get("error") or "not installed", advice=advice)
    if len(builds) > 1:
        advice = f"they overwrite each other's files: pip uninstall -y {' '.join(builds)}; pip install {fitting}"
        return Finding(name="DALI", state=worst, found=f"two builds: {found}", advice=advice)
    build = int(next(iter(builds)).rpartition("cuda")[2][:2] or 0)
    if has_gpu and gpu.get("driver_cuda") and build > major(gpu["driver_cuda"]):
        advice = f"the driver takes CUDA up to {gpu['driver_cuda']}: pip uninstall -y {next(iter(builds))}; pip install {fitting}"
        return Finding(name="DALI", state="broken", found=f"{found}, for a newer driver", advice=advice)
    if "error" in dali:
        advice = f"see DALI's page on what it supports, {instead}"
        return Finding(name="DALI", state=worst, found=f"{found} does not load images: {dali['error']}", advice=advice)
    found += f" loads images on the {dali['device'].upper().replace('CUDA', 'GPU')}"
    if gpu.get("torch_cuda") and build != major(gpu["torch_cuda"]):
        found += f"; torch is built for CUDA {gpu['torch_cuda']}, which goes together"
    return Finding(name="DALI", state="ok", found=found)


def compiled(threads: Facts) -> Finding:
    if "error" in threads:
        advice = "install fastfashion and what it needs again, or load with --set data.backend=dali"
        return Finding(name="CPU loader", state="broken", found=f"does not load images: {threads['error']}", advice=advice)
    if not threads["native"]:
        return Finding(name="CPU loader", state="gap", found="works through Pillow, several times slower", advice=HOW_TO_BUILD)
    return Finding(name="CPU loader", state="ok", found="compiled")


def disk(disk: Facts) -> Finding:
    if disk["free_bytes"] is None or "error" in disk:
        advice = "choose another place with --out, and see whether this disk is sound"
        return Finding(name="disk", state="gap", found=disk["error"], advice=advice)
    found = f"{gigabytes(disk['free_bytes'])} free"
    if disk["write_bytes_per_s"] is not None:
        found += f", writes {disk['write_bytes_per_s'] / 1e6:.0f} MB/s, reads {disk['read_bytes_per_s'] / 1e6:.0f} MB/s"
    if disk["free_bytes"] < MIN_FREE:
        advice = "data sets, shards and runs want more: make room, or name folders on another disk with --out"
        return Finding(name="disk", state="gap", found=found, advice=advice)
    if min(disk["write_bytes_per_s"], disk["read_bytes_per_s"]) < SLOW_DISK:
        advice = "the first epoch reads at this rate (later ones from memory): keep shards/ on a faster disk"
        return Finding(name="disk", state="gap", found=found, advice=advice)
    return Finding(name="disk", state="ok", found=found)


def data(data: Facts) -> Finding:
    found = ", ".join([*data["sources"], *data["packed"]])
    if found:
        return Finding(name="data", state="ok", found=found)
    advice = "fastfashion download small, or fastfashion synth for a drawn stand-in"
    return Finding(name="data", state="note", found="no data set under data/, no packed set under shards/", advice=advice)


def kaggle(kaggle: Facts, has_data: bool) -> Finding:
    shown = kaggle.get("credentials") or "no credentials"
    if "error" not in kaggle:
        size = f", {kaggle['num_bytes'] / 1e6:.0f} MB" if kaggle["num_bytes"] else ""
        return Finding(name="Kaggle", state="ok", found=f"gives the small set{size}; {shown}")
    first, _, rest = kaggle["error"].partition("\n")
    advice = " ".join(rest.split()) or "see whether this machine reaches https://www.kaggle.com (behind a proxy: export HTTPS_PROXY)"
    return Finding(name="Kaggle", state="note" if has_data else "gap", found=f"{first}; {shown}", advice=advice)


def hub(hub: Facts) -> Finding:
    kept = "the weights of resnet18 are here already" if hub.get("cached") else "the weights of resnet18 are not here yet"
    if hub.get("offline"):
        found = f"not asked, since HF_HUB_OFFLINE is set; {kept}"
    elif "error" in hub:
        found = f"{hub.get('endpoint', 'the Hub')} does not answer ({hub['error']}); {kept}"
    else:
        return Finding(name="Hub", state="ok", found=f"{hub['endpoint']} answers; {kept}")
    if hub.get("cached"):
        return Finding(name="Hub", state="note", found=found)
    advice = "train with --weights FILE from another machine or with --no-pretrained (a proxy: HTTPS_PROXY, a mirror: HF_ENDPOINT)"
    return Finding(name="Hub", state="gap", found=found, advice=advice)


def major(version: str) -> int:
    return int(version.partition(".")[0])


def gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
