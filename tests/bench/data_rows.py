"""Rows to time lora-data with: Chinese and English, some of them copies, near copies or with a mobile number.

    python3 tests/bench/data_rows.py 1000000 rows.jsonl
"""

import json
import random
import sys

CHINESE = [chr(c) for c in range(0x4E00, 0x4E00 + 2500)]
ENGLISH = (
    "the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not "
    "what all were we when your can said there use an each which she do how their if will up other about out many then "
    "them these so some her would make like him into time has look two more write go see number no way could people my "
    "than first water been call who oil its now find"
).split()


def main():
    count, path = int(sys.argv[1]), sys.argv[2]
    draw = random.Random(1)
    originals = []
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            if originals and draw.random() < 0.05:
                question, answer = draw.choice(originals)
                if draw.random() < 0.5:
                    middle = len(answer) // 2
                    answer = answer[:middle] + draw.choice(CHINESE) + answer[middle + 1 :]
            elif draw.random() < 0.7:
                question = "".join(draw.choices(CHINESE, k=draw.randint(8, 40))) + "？"
                answer = "".join(draw.choices(CHINESE, k=draw.randint(30, 300)))
            else:
                question = " ".join(draw.choices(ENGLISH, k=draw.randint(6, 25)))
                answer = " ".join(draw.choices(ENGLISH, k=draw.randint(20, 150)))
            if draw.random() < 0.02:
                answer += f"联系电话139{draw.randrange(10**8):08d}。"
            if i % 20 == 0 and len(originals) < 50000:
                originals.append((question, answer))
            file.write(json.dumps({"id": i, "question": question, "answer": answer}, ensure_ascii=False) + "\n")


main()
