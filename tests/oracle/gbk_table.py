"""Makes src/text/gbk_table.cpp from Python's codec.

    python3 tests/oracle/gbk_table.py > src/text/gbk_table.cpp
"""

TRAILS = [t for t in range(0x40, 0xFF) if t != 0x7F]


def character(lead, trail):
    try:
        return ord(bytes([lead, trail]).decode("gbk"))
    except UnicodeDecodeError:
        return 0


def runs(values):
    """(first, length) of neighbours that count up, and of those that are 0."""
    found = []
    for value in values:
        if found and value == (found[-1][0] + found[-1][1] if found[-1][0] else 0):
            found[-1][1] += 1
        else:
            found.append([value, 1])
    return found


def main():
    values = [character(lead, trail) for lead in range(0x81, 0xFF) for trail in TRAILS]
    print("// Made by tests/oracle/gbk_table.py; not to be edited.")
    print('#include "text/gbk.h"\n\n#include <iterator>\n\nnamespace rankfold::gbk {\n')
    print("// (length of the run << 16) | its first character, 0 for pairs of bytes that are none")
    print("const uint32_t kRuns[] = {")
    line = " "
    for first, length in runs(values):
        number = f" {length << 16 | first:#x}u,"
        if len(line) + len(number) > 118:
            print(line)
            line = " "
        line += number
    print(line)
    print("};\nconst size_t kRunCount = std::size(kRuns);\n\n}  // namespace rankfold::gbk")


main()
