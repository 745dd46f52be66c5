"""The names by which downloads call their splits: `Training`, `seg_test`, `valid`, `测试集`."""

import re
import unicodedata
from typing import NamedTuple

SPLITS = ("train", "val", "test")
# The names of splits in downloads, in several languages.
WORDS = {
    "train": """train training trainset trn trainingset traindata trainingdata trainimages
        trainingimages tr learn learning trainingsdaten trainingsbilder lernen entrainement
        apprentissage entrenamiento aprendizaje treino treinamento addestramento allenamento trening
        träning eğitim обучение 训练 训练集 訓練 訓練集 訓練データ 学習 学習データ 훈련 학습""",
    "val": """val valid validation validate validating validset validationset valset valdata
        validationdata valimages validationimages dev devel development devset eval evaluation
        validierung validierungsdaten validación validação validazione validatie walidacja
        validering doğrulama валидация проверка 验证 验证集 驗證 驗證集 検証 検証データ 검증""",
    "test": """test testing tests testset tst testingset testdata testingdata testimages
        testingimages holdout testdaten testbilder prueba pruebas teste testes prova тест
        тестирование 测试 测试集 測試 測試集 テスト テストデータ 評価 테스트""",
}
# Words without a meaning of their own beside one of these.
FILLERS = """set sets data dataset image images img imgs pictures photos samples seg split folder
    files all final new full raw resized jpg jpeg png daten bilder donnees d de datos dados dati
    imagenes imagens immagini x"""
PLAUSIBLE_CLASSES = {"valid", "dev", "eval", "tr", "learn", "learning", "prova"}  # on their own


class Role(NamedTuple):
    """What a folder's name says: a split, and words besides, such as that of the data set."""

    split: str
    rest: frozenset[str] = frozenset()
    is_certain: bool = False


def role(name: str) -> Role | None:
    """Return the split that a folder's name stands for, if any: `seg_train`, `Test_Images`."""
    composed = unicodedata.normalize("NFC", name)
    spaced = re.sub(r"(?<=[^\W\d_A-Z])(?=[A-Z])", " ", composed)
    words = [plain(word) for word in re.split(r"[\W\d_]+", spaced) if word]
    splits = {SPLIT_OF[word] for word in words if word in SPLIT_OF}
    if len(splits) != 1:
        return None
    rest = frozenset(words).difference(SPLIT_OF, FILLERS.split())
    is_plain = len(words) == 1 and words[0] in PLAUSIBLE_CLASSES
    return Role(splits.pop(), rest, not rest and not is_plain)


def plain(word: str) -> str:
    """Return a word in lower case without accents."""
    letters = unicodedata.normalize("NFKD", word.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


SPLIT_OF = {plain(word): split for split, words in WORDS.items() for word in words.split()}
