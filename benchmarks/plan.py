"""What a plan says of memory beside what a step takes, on this machine: on a GPU where there is one, else on the CPU.

    python benchmarks/plan.py [--models small] [--precision bf16-mixed]

The plan comes from `python -m stages.<stage> plan`'s own code, on shapes; the step is the same stage's, with random
weights, AdamW and a batch of noise. On a GPU the peak is the allocator's (`torch.cuda.max_memory_allocated`), on the
CPU the sum of what the profiler saw handed out and given back. The last line is one JSON object.
"""

import argparse
import json

import torch
from lightning.pytorch import seed_everything
from torch.profiler import ProfilerActivity, profile

from datamodules.batch import Batch
from modules.encoders.timm import TimmEncoder
from modules.encoders.waveform_cnn import WaveformCNN
from modules.objectives.contrastive import InfoNCE
from stages.align import Align
from stages.optim import Optim
from stages.planning.layout import Layout
from stages.planning.plan import plan

PICTURES = {
    "small": ["vit_tiny_patch16_224", "resnet18", "convnext_atto"],
    "large": ["vit_base_patch16_224", "vit_large_patch14_clip_224", "resnet50", "convnext_base"],
}


def main() -> None:
    """Compare a plan with a step, model by model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--models", choices=PICTURES, default="large" if on_gpu else "small")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--samples", type=int, default=64 if on_gpu else 8, help="in a batch")
    asked = parser.parse_args()
    seed_everything(0, verbose=False)
    device = torch.device("cuda" if on_gpu else "cpu")
    layout = Layout(1, "auto", asked.precision, 1, 1000)
    print(
        f"{torch.cuda.get_device_name() if on_gpu else 'CPU'}, torch {torch.__version__}, {asked.precision}"
    )
    print(f"{'pictures by':<30}{'planned MiB':>14}{'taken MiB':>14}{'planned / taken':>18}")
    ratios = {}
    for name in PICTURES[asked.models]:
        batch = noise(asked.samples)
        with torch.device("meta"):
            stage = build(name)
        planned = plan(stage, batch, asked.samples, layout).peak
        taken = peak_of_step(build(name).to(device), batch.to(device), layout)
        ratios[name] = planned / taken
        print(f"{name:<30}{planned / 2**20:>14.1f}{taken / 2**20:>14.1f}{ratios[name]:>18.3f}", flush=True)
    print(json.dumps({"planned_over_taken": ratios}))


def peak_of_step(stage: Align, batch: Batch, layout: Layout) -> int:
    """Return the most bytes held at once in the second step, when the optimiser has its state."""
    optimizer = torch.optim.AdamW(stage.parameters(), fused=True)
    step(stage, batch, layout, optimizer)
    if next(stage.parameters()).is_cuda:
        torch.cuda.reset_peak_memory_stats()
        step(stage, batch, layout, optimizer)
        return torch.cuda.max_memory_allocated()
    kept = [
        *stage.parameters(),
        *stage.buffers(),
        *batch.inputs["image"].values(),
        batch.inputs["audio"]["waveform"],
    ]
    kept += [value for state in optimizer.state.values() for value in state.values()]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step(stage, batch, layout, optimizer)
    held = peak = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak + sum(tensor.numel() * tensor.element_size() for tensor in kept)


def step(stage: Align, batch: Batch, layout: Layout, optimizer: torch.optim.Optimizer) -> None:
    """Make one step, as training does."""
    with torch.autocast(batch.rows["image"].device.type, layout.dtype, enabled=layout.casts):
        total = torch.stack(list(stage.losses(batch).values())).sum()
    total.backward()
    optimizer.step()
    optimizer.zero_grad()


def build(name: str) -> Align:
    """Return an alignment of pictures with sound."""
    encoders = {"image": TimmEncoder(name, pretrained=False), "audio": WaveformCNN()}
    return Align(encoders, 512, InfoNCE(), optim=Optim(lr=1e-4))


def noise(samples: int) -> Batch:
    """Return pictures of 224 pixels with a second of sound at 16 kHz each."""
    rows = torch.arange(samples)
    inputs = {
        "image": {"pixels": torch.randint(0, 255, (samples, 3, 224, 224), dtype=torch.uint8)},
        "audio": {"waveform": torch.randn(samples, 16000), "lengths": torch.full((samples,), 16000)},
    }
    return Batch(inputs, {"image": rows, "audio": rows}, [str(row) for row in rows])


if __name__ == "__main__":
    main()
