"""The columns of a speed run beyond those of every run, and the tables that show them."""

from calm_bench.speed.spec import Setting
from calm_bench.store.results import ColumnInfo


def _column(name: str, label: str, unit: str = "", better: bool | None = False) -> ColumnInfo:
    return ColumnInfo(name=name, label=label, unit=unit, higher_is_better=better)


ONE_CLIP = (
    _column("vs_plain", "against plain fp32", "×", better=True),
    _column("rest_ratio", "all but the head, b", "×", better=None),
    _column("implied_speedup", "overall, implied", "×", better=None),
    _column("identity_residual", "residual", "%", better=None),
    _column("thirty_s", "30 s", "s"),
    _column("thirty_s_at_frame", "30 s at the measured frame time", "s"),
    _column("operators", "operators per frame"),
    _column("read_mb", "read per frame", "MB"),
    _column("bandwidth_gbs", "bandwidth", "GB/s", better=None),
    _column("limit_ms", "limit per frame", "ms", better=None),
    _column("limit_ratio", "frame over limit", "×"),
    _column("backbone_limit_ratio", "backbone over limit", "×"),
    _column("head_limit_ratio", "head over limit", "×"),
    _column("codec_limit_ratio", "codec over limit", "×"),
)


def batch_columns(batch: int) -> list[tuple[str, ColumnInfo, str]]:
    """Name, column and table of what is measured at a batch size."""
    found = (
        ("step_ms", "step", "ms", False),
        ("rows_per_s", "frames per second", "", True),
        ("overall_speedup", "overall", "×", True),
        ("head_speedup", "head", "×", True),
        ("vs_plain", "against plain fp32", "×", True),
        ("peak_mb", "peak memory", "MB", False),
        ("state_mb", "state", "MB", False),
    )
    columns = []
    for name, label, unit, better in found:
        full = f"{name}@b{batch}"
        column = _column(full, f"{label}, batch {batch}", unit, better=better)
        columns.append((full, column, name))
    return columns


WHOLE = (
    _column("generation_s", "all clips", "s"),
    _column("generation_clip_s", "per clip", "s"),
    _column("generation_speedup", "whole generation", "×", better=True),
    _column("generation_vs_plain", "whole generation against plain fp32", "×", better=True),
)


def columns_of(setting: Setting) -> tuple[ColumnInfo, ...]:
    """Every column of a run with this setting."""
    batches = tuple(column for b in setting.batch for _, column, _ in batch_columns(b))
    return ONE_CLIP + batches + (WHOLE if setting.generation else ())


def tables_of(part: str, scale: str, setting: Setting) -> dict[str, tuple[str, ...]]:
    """The tables of a run: which columns stand under which title."""
    batches = setting.batch
    name = f"{part}, {scale} scale"
    several = [batch for batch in batches if batch != 1]
    shown = {
        f"Speed: {name}": (
            "overall_speedup", "head_speedup", "head_share", "vs_plain", "rtf", "first_audio_ms",
            "thirty_s", "thirty_s_at_frame",
        ),
        f"Time per frame: {name}": (
            "backbone_ms", "head_ms", "codec_ms", "frame_ms", "frame_p50_ms", "frame_max_ms",
            "rest_ratio", "implied_speedup", "identity_residual", "aa_ratio",
        ),
        f"Against the limit of memory: {name}": (
            "read_mb", "bandwidth_gbs", "limit_ms", "limit_ratio", "backbone_limit_ratio",
            "head_limit_ratio", "codec_limit_ratio", "operators", "peak_mb", "state_mb@b1",
        ),
    }  # fmt: skip
    if several:
        shown[f"Batches: {name}"] = tuple(
            f"{name}@b{batch}"
            for name in (
                "step_ms", "rows_per_s", "overall_speedup", "head_speedup", "vs_plain", "peak_mb",
            )
            for batch in (batches if name in ("step_ms", "rows_per_s", "peak_mb") else several)
        )  # fmt: skip
    if setting.generation is not None:
        shown[f"Whole generations of {setting.generation.batch} clips: {name}"] = tuple(
            column.name for column in WHOLE
        )
    return shown
