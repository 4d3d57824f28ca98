"""rvlib.course.start: an interrupt is one line, and the cells after it do not run."""

from IPython.core.interactiveshell import InteractiveShell

from rvlib.course import notebook


def test_an_interrupt_is_one_line(monkeypatch, capsys, tmp_path):
    shell = InteractiveShell()
    monkeypatch.setattr(notebook, "get_ipython", lambda: shell)
    monkeypatch.setenv("RVLIB_BUILD", str(tmp_path))
    notebook.start("smoke", device="cpu")
    capsys.readouterr()
    found = shell.run_cell("def f(): raise KeyboardInterrupt\nf()")
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert isinstance(found.error_in_exec, KeyboardInterrupt)
