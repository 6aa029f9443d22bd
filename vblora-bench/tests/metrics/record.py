"""Records scikit-learn's scores of small random predictions: python record.py > recorded.json

Needs numpy and scikit-learn 1.9. Undefined scores are those of zero_division=0; null stands for NaN.
"""

import json
import math
import warnings

import numpy
import sklearn
from sklearn import metrics as m

warnings.simplefilter("ignore")
ZERO = {"zero_division": 0}


def per_class(gold, prediction, labels):
    names = ("precision", "recall", "f1", "support")
    scores = m.precision_recall_fscore_support(gold, prediction, labels=labels, **ZERO)
    return [dict(zip(names, [float(p), float(r), float(f), int(s)])) for p, r, f, s in zip(*scores)]


def averages(gold, prediction):
    return {f"f1_{by}": m.f1_score(gold, prediction, average=by, **ZERO) for by in ("macro", "micro", "weighted")}


def classes(name, count, prediction, gold):
    ids = list(range(count))
    return {
        "name": name, "classes": count, "prediction": prediction, "gold": gold,
        "accuracy": m.accuracy_score(gold, prediction),
        "balanced_accuracy": m.balanced_accuracy_score(gold, prediction),
        "matthews": m.matthews_corrcoef(gold, prediction),
        **averages(gold, prediction),
        "confusion": m.confusion_matrix(gold, prediction, labels=ids).tolist(),
        "per_class": per_class(gold, prediction, ids),
    }


def multi_label(name, prediction, gold):
    p, g = numpy.array(prediction), numpy.array(gold)
    return {
        "name": name, "prediction": prediction, "gold": gold,
        "subset_accuracy": m.accuracy_score(g, p),
        **averages(g, p),
        "per_label": per_class(g, p, None),
    }


def numbers(name, prediction, gold):
    r2 = m.r2_score(gold, prediction)
    return {
        "name": name, "prediction": prediction, "gold": gold,
        "mse": m.mean_squared_error(gold, prediction),
        "mae": m.mean_absolute_error(gold, prediction),
        "r2": None if math.isnan(r2) else r2,
    }


draw = numpy.random.default_rng(19)


def ids(count, rows):
    return draw.integers(0, count, rows).tolist()


def mostly(gold, count):
    """The labels, of which some are drawn anew."""
    return [int(draw.integers(0, count)) if draw.random() < 0.4 else g for g in gold]


def indicators(labels, rows, share):
    return (draw.random((rows, labels)) < share).astype(int).tolist()


rare = [int(draw.random() < 0.05) for _ in range(200)]
cases = [classes(f"random {n}", n, ids(n, 60), ids(n, 60)) for n in (2, 3, 5, 10)]
for n in (2, 3, 7, 10):
    gold = ids(n, 97)
    cases.append(classes(f"mostly right {n}", n, mostly(gold, n), gold))
cases += [
    classes("one in twenty", 2, [0] * 200, rare),
    classes("one in twenty, some found", 2, mostly(rare, 2), rare),
    classes("all right", 4, [0, 1, 2, 3, 3], [0, 1, 2, 3, 3]),
    classes("all wrong", 3, [1, 2, 0, 1], [0, 1, 2, 2]),
    classes("a class that is nowhere", 4, [0, 1, 3, 3], [0, 1, 3, 1]),
    classes("a class that is only predicted", 3, [0, 2, 1, 2], [0, 1, 1, 0]),
    classes("a class that is never predicted", 3, [0, 0, 1, 1], [0, 2, 1, 2]),
    classes("constant predictions", 3, [1, 1, 1, 1], [0, 2, 1, 2]),
    classes("constant and equal", 2, [1, 1], [1, 1]),
    classes("one row", 3, [2], [0]),
]
several = [multi_label(f"random {n}", indicators(n, 40, 0.3), indicators(n, 40, 0.4)) for n in (2, 3, 8)]
gold = indicators(5, 50, 0.4)
noisy = [[int(v != (draw.random() < 0.15)) for v in row] for row in gold]
several += [
    multi_label("mostly right", noisy, gold),
    multi_label("all right", gold, gold),
    multi_label("nothing predicted", indicators(3, 6, 0), indicators(3, 6, 0.5)),
    multi_label("nothing anywhere", indicators(3, 4, 0), indicators(3, 4, 0)),
    multi_label("a label that is nowhere", [[1, 0, 0], [0, 0, 1]], [[1, 0, 0], [1, 0, 1]]),
    multi_label("everything predicted", indicators(3, 5, 1), indicators(3, 5, 0.5)),
]
gold = draw.uniform(0, 5, 80).tolist()
near = [g + float(draw.normal(0, 0.7)) for g in gold]
regression = [
    numbers("near", near, gold),
    numbers("random", draw.uniform(0, 5, 80).tolist(), gold),
    numbers("exact", gold, gold),
    numbers("constant prediction", [2.5] * 80, gold),
    numbers("constant labels", [1.0, 2.0, 3.0], [0.5] * 3),
    numbers("constant labels, exact", [0.5] * 3, [0.5] * 3),
    numbers("one row", [1.0], [2.0]),
    numbers("large values", [1e6 + 1, 1e6 + 2, 1e6 + 4], [1e6, 1e6 + 3, 1e6 + 4]),
]
recorded = {
    "made_by": f"record.py with scikit-learn {sklearn.__version__}",
    "classes": cases, "multi_label": several, "regression": regression,
}
print("{")
for number, (key, value) in enumerate(recorded.items()):
    end = "," if number + 1 < len(recorded) else ""
    if isinstance(value, list):
        lines = ",\n".join(json.dumps(case) for case in value)
        print(f"{json.dumps(key)}: [\n{lines}\n]{end}")
    else:
        print(f"{json.dumps(key)}: {json.dumps(value)}{end}")
print("}")
