"""plots.py: results as a table in Markdown and as plots (SVG, by gnuplot)."""
import subprocess
import textwrap


def cell(ratio):
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "-"


def ratio_tables(results):
    """The measures that are ratios: one table for each of our sides."""
    others = ["in-process", "nginx", "haproxy", "hitch", "stunnel"]
    lines = []
    for ours, how in (("tlsagent", "the worker accepts"), ("tlsagent-listener", "the agent accepts"),
                      ("tlsagent-kernel", "the worker accepts, kernel form"),
                      ("tlsagent-stream", "`tlsagent serve --to`, the stream form")):
        rows = [f"| {title} | " + " | ".join(cell(result["ratios"][ours].get(other)) for other in others) + " |"
                for title, result in results.items() if result.get("ratios", {}).get(ours)]
        if rows:
            lines += [f"### {ours}: {how}", "", "| | " + " | ".join(others) + " |", "|---|" + "---|" * len(others), *rows, ""]
    return lines


def negotiated_lines(results):
    """What every side negotiated, each measure; sides that agree are told together."""
    lines = []
    for title, result in results.items():
        groups = {}
        for name, got in result.get("negotiated", {}).items():
            groups.setdefault(", ".join(word for word in (got["version"], got["suite"], got["group"]) if word), []).append(name)
        if groups:
            lines.append(f"| {title} | " + "; ".join(f"{what}" + (f": {', '.join(names)}" if len(groups) > 1 else "")
                                                     for what, names in groups.items()) + " |")
    return ["What was negotiated, as the client saw it (all sides the same, or by side):", "", "| | |", "|---|---|", *lines, ""] if lines else []


def busy_lines(results):
    lines = []
    for title, result in results.items():
        if "busy" in result:
            lines += [f"In \"{title}\" the servers had {result['share']:.0%} of one CPU, as our client needs more CPU for a handshake than a "
                      "server. The row holds where all were busy nearly all of that time: "
                      + ", ".join(f"{name} {value:.0%}" for name, value in result["busy"].items()) + ".", ""]
    if "capacity" in results:
        lines += [f"Handshakes per second of one CPU were not measured: {results['capacity']['not measured']}.", ""]
    return lines


def role_lines(results):
    lines = []
    for title, result in results.items():
        if not title.startswith("full"):
            continue
        for ours in ("tlsagent", "tlsagent-listener"):
            roles = result.get("roles", {}).get(ours, {})
            shares = [f"{role} {share:.0%}" for role, share in sorted(roles.items(), key=lambda item: -item[1])
                      if share >= 0.005]
            if shares:
                lines.append(f"- {title}, {ours}: " + ", ".join(shares))
    return ["Where our CPU goes:", "", *lines, ""] if lines else []


def memory_lines(results):
    memory = results.get("memory")
    if not memory:
        return []
    lines = [f"Private memory per idle connection, bytes ({memory['connections']} connections, after warming up):", "",
             "| | all processes | of these |", "|---|---|---|"]
    for name, value in memory["bytes per connection"].items():
        if "failed" in value:
            lines.append(f"| {name} | not measured: {value['failed']} | |")
            continue
        roles = ", ".join(f"{role} {size:.0f}" for role, size in value["roles"].items() if abs(size) >= 1)
        lines.append(f"| {name} | {value['bytes']:.0f} | {roles} |")
    return [*lines, ""]


def killed_lines(results):
    killed = results.get("kill -9")
    if not killed:
        return []
    lines = ["`kill -9` of the process that does the handshakes, under load (the time is that of an `openssl s_client`, from its start):", "",
             "| | handshakes failed | first good one after | established connections lost |", "|---|---|---|---|"]
    for name, value in killed.items():
        after = value["first good one after, ms"]
        lines.append(f"| {name} | {value['failed']} of {value['handshakes']} | {'never' if after is None else f'{after} ms'} "
                     f"| {value['established lost']} of {value['established']} |")
    return [*lines, ""]


def table(data):
    about, results = data["about"], data["results"]
    lines = ["# Benchmark", "",
             f"{about['date']}, {about['form']} form, {about['rounds']} rounds. Machine: {about['machine']}; Linux {about['kernel']}; "
             f"{about['openssl']}; {about['packages']}. Commit {about['commit']}.", "",
             "Our CPU (or latency) divided by theirs, for the same work: below 1 we are cheaper. Median of the rounds' ratios, with "
             "its 95 % interval (5 rounds: 94 %). All our processes are counted. All servers run on one CPU, the client on another. hitch and stunnel connect to the plain server "
             "behind them for each connection that they accept, in the rows of handshakes too; nginx takes what it answers from files, we and "
             "haproxy (where it is small) from memory. How it is measured: `tests/bench/bench.py`.", ""]
    lines += (ratio_tables(results) + busy_lines(results) + negotiated_lines(results) + role_lines(results) + memory_lines(results)
              + killed_lines(results))
    noises = [value for result in results.values() for value in result.get("noise", {}).values()]
    if noises:
        lines += [f"Noise: the middle half of one side's rounds is {min(noises):.0%} to {max(noises):.0%} of its median wide.", ""]
    for title, result in results.items():
        if result.get("does not resume"):
            lines += [f"Not compared in \"{title}\", because they do not resume as configured: "
                      + ", ".join(result["does not resume"]) + ".", ""]
    if any(title.startswith("latency") for title in results):
        lines += ["Latency means something on an idle machine only: on a busy CPU, who has more processes is given more of it. The rows "
                  "of one CPU, where we seem faster than a server in one process, show that and nothing else.", ""]
    for other, ratio in results.get("load program", {}).items():
        lines += [f"A server's CPU with our load program is {cell(ratio)} of that with {other}.", ""]
    pieces = results.get("pieces")
    if pieces:
        names = {"tlsagent-no-sandbox": "the sandbox (namespaces, landlock, seccomp, limits)",
                 "tlsagent-no-keeper": "the keeper (the key would be in the handshaker)",
                 "tlsagent-no-transfer": "the transfer to a worker, and the worker (the agent accepts)"}
        lines += ["What a piece costs: our CPU per full TLS 1.3 handshake, P-256, divided by that without it:", "",
                  *[f"- {names[name]}: {cell(ratio)}" for name, ratio in pieces.items()], ""]
    if results.get("kernel form", {}).get("offered") is False:
        lines += ["The kernel form was not measured: this kernel has no TLS.", ""]
    for title, result in results.items():
        if title.startswith("FAILED"):
            lines += [f"**{title}**: {result['error']}", ""]
    return "\n".join(lines)


def plot(data, file):
    """Bars: our CPU divided by each peer's, where the worker accepts."""
    rows = [(title, result["ratios"]["tlsagent"]) for title, result in data["results"].items()
            if "tlsagent" in result.get("ratios", {}) and not title.startswith(("latency", "time"))]
    about = data["about"]
    versions = [word for word in about["packages"].split(", ") if not word.startswith("nginx-")]  # as nginx
    named = f"{about['date']}; {about['machine']}; Linux {about['kernel']}\\n{', '.join(versions)}"
    if not rows:
        return
    others = [name for name in ("nginx", "haproxy", "hitch", "stunnel") if any(name in row for _, row in rows)]
    text = []
    for title, row in rows:
        values = []
        for other in others:
            ratio = row.get(other)
            values += [f"{ratio['median']:.4f} {ratio['low']:.4f} {ratio['high']:.4f}" if ratio else "NaN NaN NaN"]
        text.append('"' + "\\n".join(textwrap.wrap(title, 14)) + '" ' + " ".join(values))
    plots = ", ".join(f"'-' using {2 + 3 * i}:{3 + 3 * i}:{4 + 3 * i}:xtic(1) title 'to {other}'"
                      for i, other in enumerate(others))
    block = "\n".join(text) + "\ne\n"
    script = f"""set terminal svg size 1200,520 font 'sans,11' background '#ffffff'
set output '{file}'
set title "CPU of all our processes divided by the peer's, same work (below 1: we are cheaper)\\n{named}" font ',10' noenhanced
set style data histogram
set style histogram errorbars gap 1.5 lw 1
set style fill solid 0.8 border -1
set boxwidth 0.9
set bmargin 6
set yrange [0:2]
set ytics 0.2
set grid y
set key top right
set arrow from graph 0, first 1 to graph 1, first 1 nohead lw 2 lc rgb '#444444' front
set xtics font ',9'
plot {plots}
{block * len(others)}"""
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


def write(data, directory):
    (directory / "results.md").write_text(table(data))
    plot(data, directory / "cpu.svg")
