"""`vlm eval` without a benchmark: which there are, and what to put where."""

from json import dumps

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.benchmarks import BENCHMARKS


def show_catalogue(json: bool) -> None:
    """Prints every benchmark with what to put into which folder, and where it is on the hub; in
    JSON null where it needs no folder, or is not there."""
    listed = [
        {
            "benchmark": each.name,
            "title": each.title,
            "folder": None if each.layout is None else each.folder or each.name,
            "content": each.layout,
            "hub": each.hub and each.hub.id,
        }
        for each in BENCHMARKS.values()
    ]
    if json:
        print(dumps(listed, ensure_ascii=False))
        return
    table = Table(title="vlm eval BENCHMARK ... --data DATA", show_lines=True)
    table.add_column("benchmark", no_wrap=True)
    table.add_column("title, metric; what it needs", overflow="fold")
    for each in listed:
        needs = "pip install 'vlm[eval]'"
        if each["folder"] is not None:
            needs = f"DATA/{each['folder']}/: {each['content']}"
        hub = "" if each["hub"] is None else f"\nor --hub: {each['hub']}"
        table.add_row(each["benchmark"], escape(f"{each['title']}\n{needs}{hub}"))
    table.add_row("FILE or ID", "your own data or the hub's, folders too: whatever vlm train reads")
    Console(highlight=False).print(table)
