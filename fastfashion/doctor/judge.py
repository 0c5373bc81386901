"""From facts about a machine (doctor/doctor.py) to what its user should know: pure functions."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fastfashion.extras import install
from fastfashion.load.crops import HOW_TO_BUILD

MIN_MEMORY = 4 << 30  # training a ResNet18 on small images has 2.3 GB resident
MIN_FREE = 5 << 30
SLOW_DISK = 50e6  # bytes a second
PROBED = {"gpu": "GPU", "dali": "DALI", "threads": "CPU loader", "kaggle": "Kaggle", "hub": "Hub"}  # the finding of each probe
DECODED_BY = {"own": "a decoder of its own", "turbo": "libjpeg-turbo"}  # data.decoder
Facts = dict[str, Any]


class State(StrEnum):
    OK = "ok"
    NOTE = "note"  # worth knowing, nothing to fix
    GAP = "gap"  # slower than it could be, or one way of several is closed
    BROKEN = "broken"  # something that was promised cannot work


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was examined."""

    name: str
    state: str  # a State
    found: str
    advice: str | None = None


Verdict = tuple[State, str, str | None]  # state, what was found, advice


def judge(facts: Facts) -> list[Finding]:
    """All findings, in the order in which they are read."""
    gpu, machine = facts["gpu"], facts["machine"]
    verdicts = {
        "Python": _python(machine),
        "cores": _cores(machine),
        "memory": _memory(machine),
        "GPU": _gpus(gpu),
        "driver, CUDA": _driver(gpu),
        "DALI": _dali(facts["dali"], gpu),
        "CPU loader": _compiled(facts["threads"]),
        "disk": _disk(facts["disk"]),
        "data": _data(facts["data"]),
        "Kaggle": _kaggle(facts["kaggle"], bool(facts["data"]["sources"])),
        "Hub": _hub(facts["hub"]),
    }
    busy = "this machine is very busy, or a driver or a file system hangs: run this again when it is idle"
    for probe, name in PROBED.items():
        if facts[probe].get("late"):
            verdicts[name] = State.GAP, f"not known: {facts[probe]['error']}", busy
    return [Finding(name=name, state=state, found=found, advice=advice) for name, (state, found, advice) in verdicts.items()]


def _python(machine: Facts) -> Verdict:
    version = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in machine["python"].split(".")[:3])
    found = f"{machine['python']}, {machine['system']}"
    if version < (3, 12, 7) or (3, 13) <= version < (3, 13, 1):
        advice = "torchrun of this Python does not take --nproc (gh-58573): start with fastfashion train --nproc 4, which any Python does"
        return State.NOTE, found, advice
    return State.OK, found, None


def _cores(machine: Facts) -> Verdict:
    usable, quota = machine["cores"], machine["core_quota"]
    found = f"{usable}" + (f" of {machine['all_cores']}" if machine["all_cores"] > usable else "")
    if quota is not None and quota < usable:
        advice = f"the container's quota is less than its cores: give --workers {max(1, int(quota))}, or raise the quota"
        return State.GAP, f"{found}, time of {quota:.1f}", advice
    return State.OK, found, None


def _memory(machine: Facts) -> Verdict:
    found = f"{_gigabytes(machine['memory_bytes'])}, {_gigabytes(machine['available_bytes'])} available"
    if machine["available_bytes"] < MIN_MEMORY:
        advice = f"training needs {_gigabytes(MIN_MEMORY)}: end other programs, or choose a smaller --batch-size and one process"
        return State.GAP, found, advice
    return State.OK, found, None


def _gpus(gpu: Facts) -> Verdict:
    if "torch" not in gpu:
        return State.BROKEN, f"torch cannot use this machine: {gpu['error']}", "install fastfashion again, into an empty environment"
    names = ", ".join(f"{one['name']} ({_gigabytes(one['memory_bytes'])}, sm {one['capability']})" for one in gpu["gpus"])
    if gpu["gpus"] and "error" in gpu:
        advice = f"check that nvidia-smi shows it without an error; torch {gpu['torch']} must be built for its sm"
        return State.BROKEN, f"{names} does not compute: {gpu['error']}", advice
    if gpu["gpus"]:
        return State.OK, names, None
    if gpu["driver_gpus"]:
        return State.BROKEN, f"{', '.join(gpu['driver_gpus'])}, which torch {gpu['torch']} does not see", _why_unseen(gpu)
    advice = "loading and training run on the CPU: small images (80x64) take minutes an epoch there, 224x224 ten times as long"
    return State.NOTE, "none", advice


def _why_unseen(gpu: Facts) -> str:
    built, highest = gpu["torch_cuda"], gpu["driver_cuda"]
    if built is None:
        return "this torch is built for CPUs: install one that is built for CUDA"
    if highest is not None and _major(highest) < _major(built):
        return f"torch is for CUDA {built}, the driver for up to {highest}: update it, or install a torch for CUDA {_major(highest)}"
    return "check whether CUDA_VISIBLE_DEVICES hides it, and whether the container was started with its GPUs (docker run --gpus all)"


def _driver(gpu: Facts) -> Verdict:
    if "torch" not in gpu:
        return State.NOTE, "not known", None
    built = f"torch {gpu['torch']} is built for {'CUDA ' + gpu['torch_cuda'] if gpu['torch_cuda'] else 'CPUs'}"
    if not gpu["driver_cuda"]:
        return State.NOTE, f"no NVIDIA driver; {built}", None
    return State.OK, f"{gpu['driver'] or 'driver'}, up to CUDA {gpu['driver_cuda']}; {built}", None


def _dali(dali: Facts, gpu: Facts) -> Verdict:
    """On a GPU, DALI is what training loads with; on a CPU it is one of three."""
    has_gpu = bool(gpu.get("gpus") or gpu.get("driver_gpus"))
    worst = State.BROKEN if has_gpu else State.GAP
    builds = dali.get("builds", {})
    found = ", ".join(f"{name} {version}" for name, version in builds.items())
    cuda = f"cuda{13 if _major(gpu.get('driver_cuda') or '12') >= 13 else 12}"
    fitting = f"nvidia-dali-{cuda}0"
    instead = "or load with --set data.backend=threads"
    if not builds:
        return worst, dali.get("error") or "not installed", f"{install(cuda)}, {instead}"
    if len(builds) > 1:
        advice = f"they overwrite each other's files: pip uninstall -y {' '.join(builds)}; pip install {fitting}"
        return worst, f"two builds: {found}", advice
    build = int(next(iter(builds)).rpartition("cuda")[2][:2] or 0)
    if has_gpu and gpu.get("driver_cuda") and build > _major(gpu["driver_cuda"]):
        advice = f"the driver takes CUDA up to {gpu['driver_cuda']}: pip uninstall -y {next(iter(builds))}; pip install {fitting}"
        return State.BROKEN, f"{found}, for a newer driver", advice
    if "error" in dali:
        return worst, f"{found} does not load images: {dali['error']}", f"see DALI's page on what it supports, {instead}"
    found += f" loads images on the {dali['device'].upper().replace('CUDA', 'GPU')}"
    if gpu.get("torch_cuda") and build != _major(gpu["torch_cuda"]):
        found += f"; torch is built for CUDA {gpu['torch_cuda']}, which goes together"
    return State.OK, found, None


def _compiled(threads: Facts) -> Verdict:
    if "error" in threads:
        advice = "install fastfashion and what it needs again, or load with --set data.backend=dali"
        return State.BROKEN, f"does not load images: {threads['error']}", advice
    if not threads["native"]:
        return State.GAP, "works through Pillow, several times slower", HOW_TO_BUILD
    return State.OK, f"compiled; plain JPEGs are decoded by {DECODED_BY[threads['decoder']]}", None


def _disk(disk: Facts) -> Verdict:
    if disk["free_bytes"] is None or "error" in disk:
        return State.GAP, disk["error"], "choose another place with --out, and check whether this disk is sound"
    found = f"{_gigabytes(disk['free_bytes'])} free"
    if disk["write_bytes_per_s"] is not None:
        found += f", writes {disk['write_bytes_per_s'] / 1e6:.0f} MB/s, reads {disk['read_bytes_per_s'] / 1e6:.0f} MB/s"
    if disk["free_bytes"] < MIN_FREE:
        return State.GAP, found, "data sets, shards and runs need more: make room, or name folders on another disk with --out"
    if min(disk["write_bytes_per_s"], disk["read_bytes_per_s"]) < SLOW_DISK:
        return State.GAP, found, "the first epoch reads at this rate (later ones from memory): keep shards/ on a faster disk"
    return State.OK, found, None


def _data(data: Facts) -> Verdict:
    if found := ", ".join([*data["sources"], *data["packed"]]):
        return State.OK, found, None
    advice = "fastfashion download small, or fastfashion synth for a synthetic data set"
    return State.NOTE, "no data set under data/, no packed set under shards/", advice


def _kaggle(kaggle: Facts, has_data: bool) -> Verdict:
    shown = kaggle.get("credentials") or "no credentials"
    if "error" not in kaggle:
        size = f", {kaggle['num_bytes'] / 1e6:.0f} MB" if kaggle["num_bytes"] else ""
        return State.OK, f"gives the small set{size}; {shown}", None
    first, _, rest = kaggle["error"].partition("\n")
    advice = " ".join(rest.split()) or "check whether this machine reaches https://www.kaggle.com (behind a proxy: export HTTPS_PROXY)"
    return State.NOTE if has_data else State.GAP, f"{first}; {shown}", advice


def _hub(hub: Facts) -> Verdict:
    kept = "the weights of resnet18 are here already" if hub.get("cached") else "the weights of resnet18 are not here yet"
    if hub.get("offline"):
        found = f"not asked, since HF_HUB_OFFLINE is set; {kept}"
    elif "error" in hub:
        found = f"{hub.get('endpoint', 'the Hub')} does not answer ({hub['error']}); {kept}"
    else:
        return State.OK, f"{hub['endpoint']} answers; {kept}", None
    advice = "train with --weights FILE from another machine or with --no-pretrained (a proxy: HTTPS_PROXY, a mirror: HF_ENDPOINT)"
    return (State.NOTE, found, None) if hub.get("cached") else (State.GAP, found, advice)


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
