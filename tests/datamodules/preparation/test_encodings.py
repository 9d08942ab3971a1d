"""Encodings of short texts in many languages; what cannot be told is not guessed."""

import numpy as np
import pytest

from datamodules.preparation.encodings import decode, guessed

TEXTS = {
    "Où étais-tu hier soir ?\nJe suis resté à la maison, c'était ennuyeux. Ça va.": ["cp1252", "latin-1"],
    "Ich hätte dich überall gesucht.\nDas Mädchen öffnet die Tür für größere Bären.": ["cp1252"],
    "¿Dónde estás, señor?\nMañana será otro día. ¡Qué lástima!": ["cp1252"],
    "Não sei, a situação é muito difícil. Amanhã não haverá pão.": ["cp1252"],
    "Var du här igår kväll? Förlåt mig älskling. Vänta på gården.": ["cp1252"],
    "Gdzie byłeś? Zostałem w domu, było nudno. Proszę się nie śpieszyć.": ["cp1250", "iso8859_2"],
    "Kde jsi byl včera večer?\nZůstal jsem doma, bylo to příšerně nudné.": ["cp1250", "iso8859_2"],
    "Dün gece neredeydin? Çok sıkıcıydı. Öğretmenim şimdi İstanbul'da.": ["cp1254"],
    "Где ты был вчера вечером?\nЯ остался дома, было скучно.": ["cp1251", "koi8_r", "cp866", "iso8859_5"],
    "Πού ήσουν χθες το βράδυ;\nΈμεινα στο σπίτι.": ["cp1253"],
    "איפה היית אתמול בערב?\nנשארתי בבית, היה משעמם מאוד.": ["cp1255"],
    "أين كنت مساء أمس؟\nبقيت في المنزل.": ["cp1256"],
    "昨夜はどこにいましたか。\n家にいました。とても退屈でした。": ["shift_jis", "euc_jp"],
    "昨晚你在哪里？\n我待在家里，非常无聊。\n你已经吃了吗？": ["gb18030"],
    "昨晚你在哪裡？\n我待在家裡，非常無聊。\n你已經吃了嗎？": ["big5"],
    "어젯밤에 어디 있었어요?\n집에 있었어요. 너무 지루했어요.": ["euc_kr"],
}


@pytest.mark.parametrize(
    ("text", "encoding"), [(text, encoding) for text, encodings in TEXTS.items() for encoding in encodings]
)
def test_a_few_sentences_tell_their_encoding(text, encoding):
    assert decode(text.encode(encoding))[0] == text


def test_broken_bytes_in_utf8_do_not_turn_it_into_another_encoding():
    text, encoding = decode("déjà vu, où ça, là-bas".encode() + b"\xe9\xff")
    assert (text, encoding) == ("déjà vu, où ça, là-bas\ufffd\ufffd", "utf-8")


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_of_no_encoding(seed):
    data = np.random.default_rng(seed).bytes(2000)
    assert guessed(data) is None
    with pytest.raises(ValueError, match="control characters"):
        decode(data)
