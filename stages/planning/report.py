"""What a plan says to its reader: tables of parameters, memory and work, and warnings."""

from stages.planning.plan import Plan, Speed


def report(plan: Plan, speed: Speed) -> None:
    """Print a plan as tables.

    Args:
        plan: what to say.
        speed: of each GPU.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    sizes = Table("part", "trained", "frozen", "of these random", "from", title="Parameters")
    for name, size in plan.parts.items():
        sizes.add_row(
            name,
            *(f"{count:,}" for count in (size.trained, size.frozen, size.random)),
            ", ".join(size.sources),
        )
    trained, frozen, fresh = (
        sum(values)
        for values in zip(*((s.trained, s.frozen, s.random) for s in plan.parts.values()), strict=True)
    )
    sizes.add_row("all", f"{trained:,}", f"{frozen:,}", f"{fresh:,}", "", style="bold")
    console.print(sizes)

    layout = plan.layout
    memory = Table(
        "kind", "GiB", title=f"Memory of each of {layout.ranks} ({layout.strategy}, {layout.precision})"
    )
    for kind, size in plan.memory.items():
        memory.add_row(kind, f"{size / 2**30:.3f}")
    memory.add_row("peak", f"{plan.peak / 2**30:.3f}", style="bold")
    console.print(memory)

    work = Table("what", "how much", title="Work")
    for name, (real, places) in plan.filled.items():
        work.add_row(
            f"{name} in a rank's batch",
            f"{real:,} places filled, and {1 - real / max(1, places):.0%} padding",
        )
    size = layout.accumulate * plan.batch_size
    work.add_row("samples", f"{layout.max_steps * size:,} in {layout.max_steps:,} steps of {size:,}")
    work.add_row("warm-up", f"{plan.warmup:,} steps")
    work.add_row("FLOPs a sample, forward and backward", f"{plan.flops:.3g}")
    at = f"at an MFU of {speed.mfu:.0%} of {speed.peak_tflops:g} TFLOP/s"
    work.add_row(f"seconds a step {at}", f"{plan.step_s(speed):.3g}")
    work.add_row(f"hours {at}", f"{plan.hours(speed):.3g}")
    console.print(work)
    for warning in plan.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False)
