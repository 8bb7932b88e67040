"""What a report tells of how it came about."""

from dataclasses import replace

from made import report_of

from cnnaudit.report.reproducing import facts


def test_all_that_decides_a_number_by_name():
    made = report_of(
        spec={"extends": [{"name": "cnnaudit:residual", "version": 3}, {"name": "base.yaml", "sha256": "9" * 64}]},
        settings={"date": "2026-12-01", "seed": 0, "looks": [304, 1200], "torch": "2.14.1", "metrics": ["activity/2"]},
        gate={"waivers": {"path": "w.yaml", "sha256": "4" * 64, "entries": 2}},
    )
    assert facts(replace(made, data=made.data | {"transform": "resize 256", "sources": 40})) == {
        "rules": f"net.audit.yaml (sha256 {'0' * 64})",
        "extends": f"cnnaudit:residual (version 3); base.yaml (sha256 {'9' * 64})",
        "model": "net.py:build with w.safetensors: 3 conv",
        "parameters and buffers": f"sha256 {'1' * 64}",
        "data": "x.npz: 1,200 of 5,000 images of 40 sources, order seeded",
        "images and labels": f"sha256 {'2' * 64}",
        "transform": "resize 256",
        "date": "2026-12-01",
        "seed": "0",
        "confidence": "0.95",
        "looks": "304, 1200",
        "versions": "cnnaudit 0.1.0.dev0, torch 2.14.1",
        "metrics": "activity/2",
        "waivers": f"w.yaml (sha256 {'4' * 64}, 2 entries)",
    }
