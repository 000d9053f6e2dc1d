import subprocess
import sys


def test_importing_the_package_loads_no_heavy_library() -> None:
    heavy = {"torch", "bqplot", "ray", "onnxruntime", "matplotlib", "pandas", "IPython", "ipywidgets"}
    code = "import sys, quanttaas_jupyter; print(' '.join(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "quanttaas_jupyter" in loaded
    assert not heavy & set(loaded)


def test_the_engine_imports_nothing_of_jupyter() -> None:
    code = "import sys, quanttaas_jupyter.engine.service, quanttaas_jupyter.stages; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in loaded if name.startswith(("IPython", "ipywidgets", "quanttaas_jupyter.notebook"))]
