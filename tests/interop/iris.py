"""The model of served_interop.py: a classifier of Fisher's irises, trained and asked.

    python iris.py train DIRECTORY    # model.joblib, the same bytes each time
    python iris.py ask DIRECTORY      # its answers for every flower, as JSON

Needs what requirements-mlserver.txt lists.
"""

import json
import pathlib
import sys

import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


def main(command, directory):
    model = pathlib.Path(directory) / "model.joblib"
    flowers, species = load_iris(return_X_y=True)
    if command == "train":
        joblib.dump(LogisticRegression(max_iter=1000).fit(flowers, species), model)
    elif command == "ask":
        classifier = joblib.load(model)
        answers = {
            "predict": classifier.predict(flowers).ravel().tolist(),
            "predict_proba": classifier.predict_proba(flowers).ravel().tolist(),
        }
        print(json.dumps({"flowers": flowers.tolist(), "answers": answers}))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
