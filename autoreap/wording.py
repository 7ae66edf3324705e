"""Numbers as people say them."""


def duration(seconds: float) -> str:
    """`seconds` as people say it: 45 s, 3 min 20 s, 7 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size_text(num_bytes: float) -> str:
    """Decimal units, as disks are sold: 5.90 MB, 36.53 GB."""
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.2f} MB"
