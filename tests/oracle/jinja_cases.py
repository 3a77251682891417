"""Templates and values of our own for test_jinja.py, and a maker of random ones."""

VALUES = {
    "name": "Ada",
    "text": "  Hello, World!\n\tit's \"fine\" \\ \u00e9\u4e16\u754c \U0001f600 \u00a0",
    "empty": "",
    "word": "don't stop-now (ok) STRASSE stra\u00dfe \u01c6 \u03a3\u0391\u03a3",
    "n": 7,
    "zero": 0,
    "neg": -3,
    "big": 123456789012345678901234567890,
    "f": 2.5,
    "g": 1e16,
    "h": -0.0,
    "t": True,
    "no": False,
    "nothing": None,
    "xs": [3, 1, 2, 1],
    "names": ["b", "A", "c", "a", "B"],
    "mixed": [1, "x", None, 2.0, [1, 2], {"k": 1}, True],
    "d": {"b": 1, "a": "x", "C": None, "items": [1], "list": [1, {"z": 2}]},
    "none_dict": {},
    "people": [
        {"name": "bob", "age": 3, "tags": ["x", "y"], "address": {"city": "Rome"}},
        {"name": "Ann", "age": 2, "tags": [], "address": {"city": "oslo"}},
        {"name": "cy", "age": 3, "flag": True, "address": {"city": "Bern"}},
    ],
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello \u4e16"}],
}

EXPRESSIONS = r"""
1 + 2 * 3
(1 + 2) * 3
2 ** 3 ** 2
-2 ** 2
- 2 | abs
-n
+t
7 / 2
4 / 2
7 // 2
-7 // 2
-7 % 3
7 % -3
7.5 // 2
-7.5 % 2
1 / 0
1 // 0
1 % 0
1.0 / 0
0.1 + 0.2
1e16
1e15
123456789.123
1e-5
0.0001
1e22
1e300 * 1e10
-1e300 * 1e10
5e-324
h
g
f
big
big * big
big // 7
big % 1000007
-big // 7
-big % 97
big - big
big + 1
9223372036854775807 + 1
-9223372036854775808 - 1
9223372036854775807 * 9223372036854775807
2 ** 100
2 ** -1
2 ** 0.5
0 ** 0
10 ** 20 / 3
0x1F + 0b11 + 0o17
1_000_000
1_0.5_0
1e3
1.5e-3
1 ~ 2
1 + 2 ~ 3
"a" ~ none ~ true ~ 1.5 ~ [1] ~ {"a": 1}
"a" + "b" "c" 'd'
"a" + 1
"a" % range(4)
"a" % d.items()
1 + "a"
"ab" * 3
3 * "ab"
"ab" * -1
[1] * 2 + [3]
(1,) + (2, 3)
(1)
()
(1,)
[1, 'two', 3.0, none, true, [], {}, ()]
{'a': 1, "b": [2, {'c': none}], 3: 'x', none: 0, 1.5: 2, true: 9}
{'a': 1, 'a': 2}
{1: 'a', 1.0: 'b', true: 'c'}
{[1]: 2}
n == 7.0
1 == 1.0 == true
"1" == 1
none == none
none == undefined_thing
undefined_thing == other_undefined
1 < 2 < 3
1 < 3 < 2
1 < 2 > 1 != 5
"a" < "b"
"a" < "B"
[1, 2] < [1, 3]
(1, 2) < (1, 2, 0)
"a" < 1
none < 1
true < 2
n > f
big > g
big > 1e30
big < 1.5e29
1 in [1.0]
"ell" in "Hello"
1 in "Hello"
"a" in d
"zz" in d
[1] in d
"a" not in d
not "a" in d
none in "abc"
1 in none
1 in range(3)
"x" in undefined_thing
t and no or 5
"" or "x"
"a" and 0
0 or none
not t
not not n
not n is defined
n is defined
n is not defined
undefined_thing is defined
undefined_thing is undefined
d.zzz is defined
d.zzz.y is defined
undefined_thing.x is defined
undefined_thing
undefined_thing.x
undefined_thing[0]
undefined_thing + 1
undefined_thing ~ "x"
undefined_thing()
-undefined_thing
undefined_thing | length
undefined_thing | upper
undefined_thing | list
undefined_thing | default("dd")
undefined_thing | int
undefined_thing | tojson
undefined_thing is none
undefined_thing is iterable
undefined_thing is sequence
undefined_thing is string
undefined_thing is callable
undefined_thing == ""
[undefined_thing]
nothing
nothing.x
nothing["x"]
nothing.x.y
nothing | default("dd")
nothing | default("dd", true)
nothing | default(default_value="q", boolean=1)
empty | default("e", true)
zero | d(5, true)
n.x
n["x"]
xs.x
xs["x"]
xs.0
xs.9
xs[0]
xs[-1]
xs[4]
xs[-5]
xs[true]
xs[1.0]
xs["0"]
xs[1:]
xs[:-1]
xs[::-1]
xs[::2]
xs[1:3]
xs[5:]
xs[-2:]
xs[:100]
xs[::0]
xs[none:2]
xs["a":]
xs[3:0:-1]
xs[10:-10:-2]
text[2:7]
text[::-1]
text[-4:]
text[::3]
text[0]
text[100]
text[-1]
text[28]
name[undefined_thing:]
n[1:]
d[1:]
(1, 2, 3)[1:]
range(5)[1:3] | list
d.a
d['a']
d.items
d["items"]
d.list
d.keys() | list
d.values() | list
d.items() | list
d.items()
d.get("a")
d.get("zz")
d.get("zz", 5)
d.get()
d.get("a", 1, 2)
d["zz"]
d[none]
d[[1]]
d.copy()
d.pop("a")
d.update({})
d.pop is defined
d.__class__
d["__class__"]
d.__class__ is defined
name.__class__.__mro__
xs.append(1)
xs.append
xs["append"]
xs.index(2)
xs.index(9)
xs.count(1)
xs.copy()
d.a.b.c
people[0].name
people[0]["address"].city
people[0]['address']['city']
people | map(attribute="name") | list
people | map(attribute="address.city") | join(", ")
people | map(attribute="tags.0") | list
people | map(attribute="flag", default="none") | list
people | map(attribute="tags.0", default="-") | list
people | map("length") | list
names | map("upper") | join
names | map("replace", "a", "z") | list
names | map | list
names | map("nofilter") | list
names | map("upper")
xs | map("string") | list
people | selectattr("flag") | map(attribute="name") | list
people | rejectattr("flag") | map(attribute="name") | list
people | selectattr("age", "equalto", 3) | list | length
people | selectattr("age", "==", 3) | map(attribute="name") | first
people | selectattr("age", ">", 2) | map(attribute="name") | list
people | selectattr("name", "in", ["bob", "cy"]) | list | length
people | selectattr("flag", "defined") | list | length
people | rejectattr("flag", "undefined") | list | length
people | selectattr("age", "equalto", 3) | length
(people | selectattr("age"))[0]
people | selectattr("age") | tojson
people | selectattr() | list
mixed | select("string") | list
mixed | select | list
mixed | reject("none") | list
mixed | select("number") | list
xs | select("odd") | list
xs | reject("even") | list
xs | select("divisibleby", 2) | list
mixed | select("notest") | list
xs | sort
xs | sort(reverse=true)
names | sort
names | sort(case_sensitive=true)
names | sort(true, true)
mixed | sort
people | sort(attribute="name") | map(attribute="name") | list
people | sort(attribute="age,name") | map(attribute="name") | list
people | sort(attribute="age", reverse=true) | map(attribute="name") | list
d | sort
d | dictsort
{"b": 1, "A": 2, "c": 0} | dictsort
{"b": 1, "A": 2, "c": 0} | dictsort(true)
{"b": 1, "A": 2, "c": 0} | dictsort(by="value")
{"b": 1, "A": 2, "c": 0} | dictsort(false, "value", true)
{"b": 1, "A": 2, "c": 0} | dictsort(by="x")
names | unique | list
names | unique(true) | list
people | unique(attribute="age") | map(attribute="name") | list
mixed | unique | list
xs | unique
xs | min
xs | max
names | min
names | max(case_sensitive=true)
people | max(attribute="age")
[] | min
xs | sum
people | sum(attribute="age")
people | map(attribute="age") | sum
[[1], [2]] | sum(start=[])
names | sum
names | sum(start="")
xs | first
xs | last
[] | first
[] | last
d | first
d | last
empty | first
name | first
name | last
(xs | map("string")) | last
nothing | first
n | first
xs | length
text | length
d | length
n | length
nothing | length
xs | count
range(4) | length
xs | reverse | list
name | reverse
d | reverse | list
n | reverse
xs | reverse
xs | map("string") | reverse
xs | batch(2) | list
xs | batch(3, "-") | list
xs | slice(3) | list
xs | slice(3, "-") | list
people | groupby("age") | list | length
people | groupby("age") | map("first") | list
people | groupby("name") | map(attribute="grouper") | list
(people | groupby("age"))[0].list | length
xs | join
xs | join(", ")
names | join("-", attribute="x")
d | join("|")
name | join(".")
nothing | join
xs | join(1)
[undefined_thing, 1] | join(",")
xs | list
name | list
d | list
n | list
range(3) | list
range(1, 10, 3) | list
range(5, 0, -2) | list
range(0)
range(3)
range(1, 3, 2)
range(1.5)
range()
range(1, 2, 0)
range(100001)
range(100000) | length
range(10)[3]
range(10)[-1]
range(10)[10]
range(3) == range(0, 3)
name | upper
name | lower
word | title
word | capitalize
word | upper
word | lower
word.title()
word.upper()
word.lower()
word.swapcase()
word.capitalize()
word.casefold()
n | upper
"it's c_d" | title
"it's c_d".title()
text | trim
text | trim | length
text | trim(" \n\t")
"xxaxx" | trim("x")
n | trim
nothing | trim
"\u3000a\u00a0" | trim
"\u200ba\ufeff" | trim | length
"\x1c\x1fa\x85" | trim
text.strip()
text.lstrip()
text.rstrip()
"xyaxy".strip("xy")
"xyaxy".lstrip("yx")
"xyaxy".rstrip("yx")
"aXbXc".split("X")
"aXbXc".split("X", 1)
"aXbXc".rsplit("X", 1)
"aXbXc".split(sep="X", maxsplit=1)
" a  b c ".split()
" a  b c ".split(none, 1)
" a  b c ".rsplit(none, 1)
"".split(",")
"".split()
"abc".split("")
"a,b,c".split(",")[-1]
"x</think>y".split("</think>")[-1].lstrip("\n")
"a\nb\r\nc\x0bd\u2028e".splitlines()
"a\nb\n".splitlines(true)
"abc".startswith("ab")
"abc".startswith(("x", "a"))
"abc".startswith("b", 1)
"abc".endswith("bc")
"abc".endswith(("x", "c"))
"abc".endswith("b", 0, 2)
"abc".startswith(1)
"abcabc".find("c")
"abcabc".rfind("c")
"abcabc".find("x")
"\u4e16\u754cab".find("a")
"abc".index("x")
"abcabc".index("b", 2)
"abcabc".count("bc")
"abc".count("")
"banana".replace("a", "o")
"banana".replace("a", "o", 2)
"abc".replace("", "-")
"abc".replace("b")
"banana" | replace("a", "o")
"banana" | replace("a", "o", 1)
n | replace(7, 8)
"a".join(["x", "y"])
",".join(names)
",".join(xs)
",".join("abc")
",".join({"a": 1, "b": 2})
"abc".center(9, "*")
"abc".center(8)
"ab".center(5, "x")
"abc".ljust(5) ~ "|"
"abc".rjust(5)
"42".zfill(5)
"-42".zfill(5)
"a.b.c".partition(".")
"a.b.c".rpartition(".")
"abc".partition("x")
"prefix".removeprefix("pre")
"suffix".removesuffix("fix")
"a\tb".expandtabs(4)
"abc".isalpha()
"12".isdigit()
"\u00b2".isdigit()
"\u00b2".isdecimal()
"\u00bd".isnumeric()
"a1".isalnum()
" ".isspace()
"Ab".isupper()
"AB1".isupper()
"ab1".islower()
"Ab Cd".istitle()
"a b".isidentifier()
"abc".nomethod()
"abc".nomethod
"{} {}".format(1, "x")
"{0} {1} {0}".format("a", "b")
"{x} {y!r}".format(x=1, y="q")
"{:>5}|{:<5}|{:^5}".format("a", "b", "c")
"{:05d} {:x} {:,}".format(42, 255, 1234567)
"{:.2f} {:e} {:g}".format(3.14159, 1234.5, 0.0001)
"{:+d} {:%}".format(5, 0.25)
"{a[b]} {a.c}".format(a={"b": 1})
"{{}}".format()
"{} {}".format(1)
"{0.x}".format(1)
"%s is %d" | format("x", 3)
"%s" % "x"
"%s %s" % ("a", "b")
"%05.2f|%-5s|%+d|%x" % (3.14159, "ab", 5, 255)
"%(a)s" % {"a": 1}
"%d%%" % 5
"%s %s" % "a"
"%s" % (1, 2)
"%d" % "x"
"%r %s" % ("q", none)
"a" % 1
"hello" | center(11)
"a\nb\n\nc" | indent
"a\nb\n\nc" | indent(2, true)
"a\nb\n\nc" | indent(2, blank=true)
"a\nb" | indent("> ", true)
"" | indent
n | indent
"hello world foo" | truncate(9)
"hello world foo" | truncate(9, true)
"hello world foo" | truncate(9, false, "..", 0)
"hello" | truncate(3)
"one two  three" | wordcount
"a b&c=d/e" | urlencode
{"a": "b c", "d": 1} | urlencode
1234567 | filesizeformat
1 | filesizeformat
"<a href='x'>&\"" | escape
"<a>" | e
"<b>" | safe
("<b>" | safe) + "<c>"
"<c>" + ("<b>" | safe)
("<b>" | safe) ~ "<c>"
["<b>" | safe]
"<b>" | safe | upper
"<b>" | escape | safe | forceescape
("%s" | safe) % "<x>"
("<b>" | safe) is escaped
"5" | int
" 42 " | int
"4_2" | int
"0x1f" | int(base=16)
"1f" | int(0, 16)
"0b11" | int(0, 0)
"x" | int
"x" | int(9)
"12.7" | int
"-12.7" | int
12.7 | int
-12.7 | int
true | int
nothing | int
xs | int
"1e3" | int
"inf" | int
"99999999999999999999" | int
"1.5" | float
"abc" | float
"abc" | float(1.5)
"1_0.5" | float
"inf" | float
"nan" | float
3 | float
nothing | float(0)
-5 | abs
-5.5 | abs
"a" | abs
2.5 | round
3.5 | round
2.675 | round(2)
-2.5 | round
1234.5 | round(-2)
1250 | round(-2)
5 | round
2.1 | round(method="ceil")
2.9 | round(0, "floor")
2.123 | round(2, "ceil")
42 | round(method="x")
name | string
n | string
mixed | string
d | string
text | string
[text]
["it's", 'say "hi"', "it's \"both\"", "a\\b\n\t\r\x00\x7f\u00e9\u200b\U0001f600\u00ad"]
d | tojson
mixed | tojson
mixed | tojson(indent=2)
d | tojson(indent=4)
[[], {}, [[]], {"a": {}}] | tojson(indent=1)
text | tojson
text | tojson(ensure_ascii=true)
"<>&'\x7f\u2028\x01\x1f/" | tojson
"\x7f\u2028\U0001f600" | tojson(true)
[1.0, 1e16, 1e-7, -0.0, 123456789012345678901234567890, true, none] | tojson
d | tojson(sort_keys=true)
{"b": 1, "a": {"d": 1, "c": 2}} | tojson(sort_keys=true, indent="\t")
d | tojson(separators=(",", ":"))
d | tojson(separators=[" , ", " : "], indent=2)
{1: 2, none: 3, true: 4, 1.5: 5} | tojson
{(1, 2): 3} | tojson
(1, 2) | tojson
range(3) | tojson
d.items() | tojson
namespace(a=1) | tojson
("<b>" | safe) | tojson
1e400 | tojson
n | tojson(indent=2)
"" | tojson
n is number
f is number
t is number
t is integer
n is integer
f is float
t is boolean
n is boolean
t is true
n is true
no is false
zero is false
nothing is none
name is string
d is mapping
xs is mapping
xs is sequence
d is sequence
name is sequence
n is sequence
range(3) is sequence
xs is iterable
name is iterable
n is iterable
nothing is iterable
d.items() is iterable
d.items() is sequence
(xs | map("string")) is iterable
name is callable
range is callable
"abc" is lower
"ABC" is upper
"Abc" is lower
7 is odd
7 is even
"7" is odd
8 is divisibleby 4
8 is divisibleby(3)
n is eq 7
n is equalto(7)
n is ne 7
n is gt 5
n is lessthan 5
n is ge 7
n is le 6
n is sameas 7
nothing is sameas none
true is sameas(true)
n is in [7]
n is in xs
n is not in xs
"upper" is filter
"nofilter" is filter
"odd" is test
n is nosuchtest
n | nosuchfilter
"x" if t else n | nosuchfilter
"x" if t else "y"
"x" if no
("x" if no) is defined
("x" if no).y
"a" if no else "b" if no else "c"
1 + 1 is string
"a" ~ 1 | string
-1 is number
- 1 | string ~ "x"
n is defined and n is number
not n is string
xs | first + 1
xs | length > 3
"a" in "abc" and "z" not in "abc"
[1, 2] == (1, 2)
{"a": 1} == {"a": 1.0}
{"a": 1, "b": 2} == {"b": 2, "a": 1}
[1, [2]] == [1, [2]]
dict(a=1, b=2)
dict([("a", 1), ("b", 2)])
dict({"a": 1}, b=2)
dict(1)
dict([1])
namespace(a=1).a
namespace(a=1).b
namespace(a=1)["a"]
namespace({"x": 1}).x
namespace(_x=1)._x
cycler("a", "b").next()
cycler()
joiner("|")()
lipsum is defined
raise_exception("my own text")
raise_exception(1)
raise_exception()
strftime_now("%d %b %Y")
strftime_now("%Y-%m-%d %H:%M")
strftime_now("%A, %B %-d")
caller
loop
varargs
messages[0].role ~ messages[-1]["content"]
messages | map(attribute="content") | join("+")
messages | tojson(indent=2)
messages[::-1]
messages[1:][0].content
"\u4e16" "\x41\101\n" 'tab\there' "\q"
"\e9"
"\\n"
n.real
n.bit_length()
f.is_integer()
xs == [3, 1, 2, 1]
xs is eq [3, 1, 2, 1]
(1, 2) in [(1, 2)]
d | items | list
nothing | items | list
undefined_thing | items | list
xs | items | list
xs | attr("count")
d | attr("a")
name | attr("upper")
"abc" | list | reverse | join
"a-b_c d" | title
"\u01c6\u00df" | title
"\u01c6\u00df".title()
"\u0130".lower() | length
"\u03a3 \u0391\u03a3. \u0391\u03a3\u0391".lower()
"\u1e9e\ufb01".casefold()
"\u0149" | upper
text is string and text | length > 5
names[0] < names[1]
"%c%c" % (65, "b")
"%5.1f%%" % 99.55
"%i" % 3.99
"%o %X %#x" % (8, 255, 255)
"%s" % [1, 2]
"%s" % d.a
"%10s|%-10s|" % ("a", "b")
big | string | length
big | float
big / 3
big == big + 0.0
10 ** 4300
2 ** 99999
f ** 2
"a" "b" ~ "c"
[1, 2, 3] | map("round") | list
[true, false, none] | map("string") | list
[true, false] | sum
{"a": 1}.items() | list
{"a": [1, 2]}["a"][1]
{"a": 1}.a + 1
{"a": {"b": 2}}.a.b
[[1, 2], [3, 4]] | map("last") | list
[[1, 2], [3, 4]] | map(attribute=0) | list
[["b", 1], ["a", 2]] | sort(attribute=0)
""".strip("\n").split("\n")

TEMPLATES = [
    "",
    "plain",
    "one\n",
    "two\n\n",
    "a\r\nb\rc\r\n",
    "{% if t %}\n  yes\n{% endif %}\nend",
    "  {% if t %}  \n  yes\n  {% endif %}  \nend",
    "a {% if t %} b {% endif %} c",
    "  {{ n }}\n  {{- n }}\n {{ n -}}  \n x",
    "a\n  {%- if t -%}  \n b \n {%- endif +%}\n c",
    "a\n  {%+ if t +%}\n b \n  {%+ endif %}\n c",
    "  {# c #}\n x {#- y -#}  z {#+ q +#}\n w",
    "{#- a -#}\n\n{% if t -%}\n\n x{% endif %}",
    "\t{% set x = 1 %}\n\t{{ x }}\n",
    "{% raw %}\n {{ no }} {% if %}\n{% endraw %}\n x",
    "  {%- raw -%}  {{ a }}  {%- endraw -%}  b",
    "{{ '}}' }} {{ '%}' }} {% if '%}' %}x{% endif %} {{ \"{{\" }}",
    "{{ {'a': {'b': 1}}['a']['b'] }}{{ {} }}",
    "{set x = 1} { { } } {% set y = '{%' %}{{ y }} #} %} }}",
    "{{ 'a\nb' }} {{ 'x\\\ny' }}",
    "{% for x in xs %}{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for x in xs %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}",
    "{% for x in xs %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
    "{% for x in xs %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for x in xs %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x) }}{% endfor %}",
    "{% for x in [1, 1, 2] %}{{ loop.changed(x) }} {% endfor %}",
    "{% for x in xs if x > 1 %}{{ x }}{{ loop.last }}{{ loop.length }}{{ loop.index }}{% else %}none{% endfor %}",
    "{% for x in xs if x > 100 %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in [] %}{{ x }}{% else %}empty{% endfor %}",
    "{% for x in undefined_thing %}{{ x }}{% else %}empty{% endfor %}",
    "{% for x in nothing %}{{ x }}{% endfor %}",
    "{% for x in n %}{{ x }}{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d | items %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }};{% endfor %}",
    "{% for c in name %}{{ c }}-{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{% endfor %}",
    "{% for a, b in [(1,)] %}{% endfor %}",
    "{% for a, b in [1] %}{% endfor %}",
    "{% for a, b in ['xy', [1, 2]] %}{{ a }}{{ b }}{% endfor %}",
    "{% for x in xs %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% else %}E{% endfor %}",
    "{% for x in [2] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% else %}E{% endfor %}",
    "{% for x in [2] %}{% continue %}{% else %}E{% endfor %}",
    "{% for x in xs %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{{ loop.index }}{% endfor %}",
    "{% for x in xs %}{% for y in xs %}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor %}",
    "{% for x in xs %}{% set outer = loop %}{% for y in [1, 2] %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}",
    "{% for p in people recursive %}{{ p.name }}{% if p.kids %}[{{ loop(p.kids) }}]{% endif %}{% endfor %}",
    "{% for x in [1, [2, [3, 4], 5], 6] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}",
    "{% for x in xs %}{{ loop(xs) }}{% endfor %}",
    "{% for x in xs | map('string') %}{{ x }}{{ loop.last }}{% endfor %}",
    "{% for x in xs | map('string') %}{{ loop.length }}{{ loop.revindex }}{{ x }}{% endfor %}",
    "{% set g = xs | map('string') %}{% for x in g %}{{ x }}{% endfor %}|{% for x in g %}{{ x }}{% endfor %}",
    "{% set g = xs | select('odd') %}{{ g | first }}{{ g | list }}",
    "{% for x in range(3) %}{% set y = x %}{{ y }}{% endfor %}{{ y }}",
    "{% set y = 9 %}{% for x in range(3) %}{{ y }}{% set y = x %}{{ y }} {% endfor %}{{ y }}",
    "{% for i in [1] %}{{ name }}{% endfor %}{% set name = 2 %}{{ name }}",
    "{{ name }}{% for i in [1] %}{{ name }}{% endfor %}{% set name = 2 %}{{ name }}",
    "{% if t %}{% set q = 1 %}{% endif %}{{ q }}{% if no %}{% set q = 2 %}{% endif %}{{ q }}",
    "{% if no %}{% set name = 1 %}{% endif %}{{ name }}",
    "{% if no %}{% set name = 1 %}{% elif t %}{% set name = 3 %}{% else %}{% set other = 1 %}{% endif %}{{ name }}{{ other }}",
    "{% if t %}{% for x in xs %}{% set name = x %}{{ name }}{% endfor %}{% endif %}{{ name }}",
    "{% for x in xs %}{% if x > 1 %}{% set name = x %}{% endif %}{{ name }} {% endfor %}",
    "{% for x in xs %}{% if x > 1 %}{{ name }}{% set name = x %}{% endif %}{{ name }} {% endfor %}",
    "{% set ns = namespace(x=0, found=false) %}{% for i in xs %}{% set ns.x = ns.x + i %}{% if i == 2 %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.x }}{{ ns.found }}{{ ns.y }}{{ ns }}",
    "{% set ns = namespace(stop=false) %}{% for x in xs if not ns.stop %}{{ x }}{% if x == 1 %}{% set ns.stop = true %}{% endif %}{% endfor %}",
    "{% set ns = namespace(stop=false) %}{% for x in xs if not ns.stop %}{{ x }}{{ loop.last }}{% if x == 1 %}{% set ns.stop = true %}{% endif %}{% endfor %}",
    "{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a }}{{ ns.b }}",
    "{% set ns = namespace() %}{% set ns._a = 1 %}{{ ns._a }}|{{ ns['_a'] }}",
    "{% set ns = namespace(a=1) %}{% set ns.me = ns %}{{ ns.me.me.a }}{{ ns }}",
    "{% set d.a = 1 %}",
    "{% set undefined_thing.a = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d2) = (3, 4) %}{{ c }}{{ d2 }}{% set e, = [5] %}{{ e }}",
    "{% set a = 1, 2 %}{{ a }}",
    "{% set a = 'x' if t %}{{ a }}",
    "{% set a %}\n  text {{ n }}\n{% endset %}[{{ a }}]",
    "{% set a | upper | trim %}  text {{ n }}{% endset %}[{{ a }}]",
    "{% set a | replace('t', 'T') %}text{% endset %}[{{ a }}]",
    "{% set ns = namespace() %}{% set ns.a %}block{% endset %}{{ ns.a }}",
    "{% set a %}{% set b = 1 %}{{ b }}{% endset %}{{ a }}{{ b }}",
    "{% for x in xs %}{% set a %}{{ x }}{% if x == 1 %}{% break %}{% endif %}{% endset %}{{ a }}{% endfor %}",
    "{% filter upper %}abc {{ name }}{% endfilter %}",
    "{% filter trim | replace('a', 'b') %}  abc {% endfilter %}",
    "{% filter indent(2) %}a\nb{% set z = 1 %}{% endfilter %}{{ z }}",
    "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}",
    "{% with a = 1, b = a %}{{ b }}{% endwith %}",
    "{% with (a, b) = (1, 2) %}{{ a }}{{ b }}{% endwith %}",
    "{% print n, 'x' %}{% print 1 + 1 %}",
    "{% if n: %}x{% endif %}{% for x in xs: %}{{ x }}{% endfor %}",
    "{% if n, %}tuple{% endif %}",
    "{{ 1, 2 }}{{ 1, }}",
    "{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, 3) }}|{{ m(1, c=4) }}|{{ m(b=5, a=6) }}|{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(x=1) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}",
    "{% macro m(a) %}{{ a is defined }}{{ a.x }}{% endmacro %}{{ m() }}",
    "{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(5) }}",
    "{% macro m() %}{{ later }}{{ name }}{% endmacro %}{% set later = 5 %}{{ m() }}{% for later in [7] %}{{ m() }}{% endfor %}",
    "{% macro m() %}{% set q = 1 %}{{ q }}{% endmacro %}{{ m() }}{{ q }}",
    "{% macro m() %}\n  text\n{% endmacro %}[{{ m() }}]",
    "{{ m() }}{% macro m() %}x{% endmacro %}",
    "{% for x in xs %}{% macro m() %}{{ x }}{{ loop }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro outer() %}{% macro inner(a) %}<{{ a }}>{% endmacro %}{{ inner(1) }}{% endmacro %}{{ outer() }}{{ inner }}",
    "{% macro m(d, depth=0) %}{% for k, v in d.items() %}{{ '  ' * depth }}{{ k }}:{% if v is mapping %}\n{{ m(v, depth + 1) }}{% else %}{{ v }}\n{% endif %}{% endfor %}{% endmacro %}{{ m({'a': 1, 'b': {'c': 2, 'd': {'e': 3}}}) }}",
    "{% macro m() %}{{ caller() }}|{{ caller() }}{% endmacro %}{% call m() %}body {{ n }}{% endcall %}",
    "{% macro m() %}{{ caller(1, b=2) }}{% endmacro %}{% call(a, b=9, c=3) m() %}{{ a }}{{ b }}{{ c }}{% endcall %}",
    "{% macro m() %}{{ caller }}{% endmacro %}{{ m() }}{{ m(caller=none) }}",
    "{% macro m() %}x{% endmacro %}{% call m() %}body{% endcall %}",
    "{% macro m(caller=1) %}{{ caller }}{% endmacro %}{{ m() }}{{ m(2) }}",
    "{% call range(3) %}{% endcall %}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{% for x in xs %}{% call m() %}{{ x }}{{ loop.index }}{% set x = 0 %}{% endcall %}{{ x }}{% endfor %}",
    "{% macro a() %}{{ m.name }}{{ a.arguments }}{{ a.catch_kwargs }}{{ a.caller }}{{ a.name }}{% endmacro %}{{ a() }}",
    "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'b': 1, 'a': 2}) }}{{ m(1, *[2], **{}) }}",
    "{{ dict(*[[('a', 1)]], **{'b': 2}) }}",
    "{% set j = joiner('-') %}{% for x in xs %}{{ j() }}{{ x }}{% endfor %}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}",
    "a{% generation %}b{% endgeneration %}c{% generation %}\u4e16{% endgeneration %}",
    "{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content }}\n{% endgeneration %}\n{% endfor %}",
    "{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q }}",
    "{% generation -%}  x  {%- endgeneration %}y",
    "  {% generation %}\n x\n  {% endgeneration %}\ny",
    "{% for x in xs %}{% generation %}{{ loop.index }}{{ x }}{% endgeneration %}{% endfor %}",
    "{% if 1 < 2 %}a{% elif n %}b{% else %}c{% endif %}",
    "{% if no %}a{% elif n == 8 %}b{% elif n == 7 %}d{% else %}c{% endif %}",
    "{% if no %}{{ x | nofilter }}{% endif %}ok",
    "{% if t %}{{ x | nofilter }}{% endif %}ok",
    "{% if no %}{% for y in xs %}{{ y | nofilter }}{% endfor %}{% endif %}ok",
    "{% for y in [] %}{{ y | nofilter }}{% endfor %}ok",
    "{{ x | nofilter if no else 'fine' }}",
    "{{ raise_exception('Roles must alternate ' ~ n) }}",
    "{% if n != 7 %}{{ raise_exception('x') }}{% endif %}fine",
    "{% set x = raise_exception('in set') %}",
    "{% for m in messages %}{{ m['role'] | upper + ': ' + m['content'] | trim }}{% endfor %}",
    "{% set loop = 1 %}{{ loop }}",
    "{% set range = 1 %}{{ range }}",
    "{% set namespace = 1 %}{{ namespace }}",
    "{% for namespace in xs %}{{ namespace }}{% endfor %}{{ namespace(a=1).a }}",
    "{% set true_ = true %}{{ true_ }}{{ True }}{{ None }}{{ False }}{{ none }}",
    "{{ xs|length }}{{ xs | length|string + 'x' }}",
    "{% set x = xs + [4] %}{{ x }}{% set x = x[1:] + x[:1] %}{{ x }}",
    "{% for i in range(5, -1, -1) %}{{ i }}{% endfor %}",
    "{% set s = '' %}{% for x in xs %}{% set s = s ~ x %}{% endfor %}[{{ s }}]",
    "{% macro kv(k, v) -%}\n  {{ k }}={{ v }}\n{%- endmacro %}{% for k, v in {'a': 1}.items() %}{{ kv(k, v) }}{% endfor %}",
    "{%- for x in xs -%}\n  {{- x -}}\n{%- endfor -%}\n  tail",
    "x\n\n  {%- if t %}\n  y\n  {%- endif %}\n\nz\n",
    "{% if t %}\n\n{% if t %}\n a\n{% endif %}\n{% endif %}\nb",
    "\u4e16\u754c {{ '\u4e16' }}\u00a0{%- if t %}x{% endif %}",
    "{{ n }}\n{{ n }}\n\n",
    "{{ '\\u00e9' }}{{ '\\xe9' }}{{ '\\101' }}{{ '\\U0001f600' }}",
    "{% set x = {'a': [1, 2, {'b': 'c'}]} %}{{ x.a[2].b }}{{ x['a'][2]['b'] }}{{ x.a.2.b }}",
    "{% set a = 1 %}{% macro m() %}{% set a = a + 1 %}{{ a }}{% endmacro %}{{ m() }}{{ m() }}{{ a }}",
    "{% set x = none %}{% if x is none and not x %}{{ x }}{% endif %}",
    "{% for x in xs %}{% else %}{{ x }}{% endfor %}",
    "{% for a in xs %}{% for b in xs if b > a %}{{ b }}{% else %}-{% endfor %}|{% endfor %}",
    "{% for i in xs %}{% with j = i * 2 %}{% if j == 2 %}{% continue %}{% endif %}{{ j }}{% endwith %}{% endfor %}",
    "{% for x in xs if loop.index > 1 %}{{ x }}{% endfor %}",
    "{% set ns = namespace(a=[]) %}{% for x in xs %}{% set ns.a = ns.a + [x * 2] %}{% endfor %}{{ ns.a | join(',') }}",
    "{{ '%s-%s' | format(1, 2) }}{{ '%(a)s' | format(a=3) }}",
    "{% set x | safe %}<b>{% endset %}{{ x + '<' }}",
    "{% filter escape %}<b>{{ '<i>' | safe }}{% endfilter %}",
    "{% set a = b = 1 %}",
    "{{ xs[0] }}{{ xs[n - 6] }}{{ xs[-n + 6] }}",
    "{% set m = messages | last %}{{ m.role }}{{ (messages | first)['content'] }}",
    "{% set rest = messages[1:] if messages[0].role == 'system' else messages %}{{ rest | length }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('\\n') }}",
    "{% if messages[0]['role'] == 'system' %}s{% elif messages[-1].role in ['assistant', 'tool'] and t is true %}a{% endif %}",
]

BROKEN = [
    "{% if %}x{% endif %}", "{% if t %}x", "{{ n", "{{ n }", "{% for x xs %}{% endfor %}", "{% for x in %}{% endfor %}", "{% endif %}",
    "{% else %}", "{% unknown %}", "{% if t %}{% endfor %}", "{{ 1 + }}", "{{ (1 }}", "{{ [1 }}", "{{ {1 }}", "{{ {1: } }}", "{{ 'abc }}",
    "{{ a b }}", "{{ 1 2 }}", "{{ | upper }}", "{{ n | }}", "{{ n is }}", "{{ n. }}", "{{ n[ }}", "{{ n] }}", "{{ ) }}", "{{ }}", "{% %}",
    "{# no end", "{% raw %} no end", "{% set %}", "{% set x %}", "{% set 1 = 2 %}", "{% set x + 1 = 2 %}", "{% macro %}{% endmacro %}",
    "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m(1) %}{% endmacro %}", "{% call m %}{% endcall %}", "{% filter %}{% endfilter %}",
    "{% break %}", "{% continue %}", "{% for x in xs %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "{% for x in xs %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", "{{ f(a=1, 2) }}", "{{ f(**a, *b) }}", "{{ f(a=1, a=2) }}",
    "{{ n ? 1 : 2 }}", "{{ n && 1 }}", "{{ !n }}", "{{ n is string is string }}", "{% for loop in xs %}{{ loop.index }}{% endfor %}",
    "{% for x in xs %}{% set loop = 1 %}{% endfor %}", "{% set true = 1 %}", "{% for none in xs %}{% endfor %}", "{{ '\\x4' }}", "{{ '\\u12' }}",
    "{{ n | nofilter }}", "{{ n is notest }}", "{% set x | nofilter %}{% endset %}", "{% filter nofilter %}{% endfilter %}", "{{ 0123 }}",
    "{{ 1__0 }}", "{{ $x }}", "{{ a.1b }}", "{% generation %}", "{% endgeneration %}", "{% if t %}{% else %}{% else %}{% endif %}",
    "{% set x | replace(zzz, '1') %}a{% endset %}{{ x }}", "{{ x if }}", "{{ if x }}", "{{ not }}", "{{ a not b }}", "{{ 1 < }}", "{{ xs[1:2:3:4] }}",
    "{% for x in xs %}{% endfor %}{% endfor %}", "{{ '\\ud800' }}", "{% macro m(caller) %}{{ caller() }}{% endmacro %}",
]

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}

CHAT_TEMPLATES = {
    "schema macros": r"""
{%- macro type_of(schema) %}
  {%- if schema.type == 'object' %}
    {{- '{' }}
    {%- for key, value in schema.properties | dictsort if value is mapping %}
      {{- key ~ ('' if key in schema.required | default([]) else '?') ~ ': ' ~ type_of(value) }}
      {%- if not loop.last %}{{- ', ' }}{% endif %}
    {%- endfor %}
    {{- '}' }}
  {%- elif schema.type == 'array' %}
    {{- 'list[' + type_of(schema['items']) + ']' }}
  {%- elif schema.enum is defined %}
    {{- schema.enum | map('tojson') | join(' | ') }}
  {%- else %}
    {{- {'string': 'str', 'number': 'float', 'integer': 'int'}.get(schema.type, 'any') }}
  {%- endif %}
{%- endmacro -%}
{%- for tool in tools or [] %}
namespace {{ tool.function.name }}: {{ type_of(tool.function.parameters) }}{{ ' // ' ~ tool.function.description | trim if tool.function.description }}
{%- endfor %}
{% for m in messages %}
{{ m.role | title }}: {{ (m.content or '') | replace('\n', ' ') }}
{% endfor %}
{%- if add_generation_prompt %}Assistant:{% endif %}
""",
    "parts": """{% for message in messages %}<{{ message.role | upper }}>
{% if message.content is string %}
{{ message.content }}
{% else %}
{% for part in message.content %}
{% if part.type == 'text' %}
{{ part.text }}
{% elif part.type in ('image', 'audio') %}
<{{ part.type }}>
{% endif %}
{% endfor %}
{% endif %}
{% endfor %}
{% if messages | selectattr('role', 'equalto', 'tool') | list | length > 1 %}many tools{% endif %}
""",
    "thoughts kept after the last user": """{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}{% if m.role == 'assistant' %}[A]{% generation %}{% if m.reasoning_content and loop.index0 > ns.last %}<think>{{ m.reasoning_content.strip() }}</think>{% endif %}{{ m.content }}{% for call in m.tool_calls %}<call>{{ call.function.name }}{% set args = call.function.arguments %}{% for k, v in args.items() %}<k>{{ k }}</k><v>{{ v | tojson(ensure_ascii=False) if v is not string else v }}</v>{% endfor %}</call>{% endfor %}</s>{% endgeneration %}{% else %}[{{ m.role[0] | upper }}]{{ m.content }}{% endif %}{% endfor %}""",
}

_TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": " Weather\u00e9 <b> ", "parameters": {
        "type": "object", "required": ["city"],
        "properties": {"city": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}},
                       "unit": {"enum": ["C", "F"]}, "at": {"type": "object", "properties": {"lat": {"type": "number"}}}}}}},
    {"type": "function", "function": {"name": "noop", "parameters": {"type": "object", "properties": {}}}},
]
_CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Z\u00fcrich \"x\"", "days": [1, 2.0], "big": 12345678901234567890}}}

CHATS = [
    {"tools": tools, "messages": messages, **extra}
    for tools in (None, _TOOLS)
    for extra in ({}, {"enable_thinking": False, "add_generation_prompt": False})
    for messages in (
        [{"role": "user", "content": "Hi"}],
        [{"role": "user", "content": " Hi \n"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"}, {"role": "user", "content": "Bye"}],
        [{"role": "system", "content": "Be \u00e9 brief. "}, {"role": "user", "content": "\u4f60\u597d"},
         {"role": "assistant", "content": "OK", "reasoning_content": "\nso\n"}],
        [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "", "tool_calls": [_CALL]},
         {"role": "tool", "content": "{\"t\": 1}"}, {"role": "tool", "content": "2"}, {"role": "assistant", "content": "Sunny"}],
        [{"role": "user", "content": "Two"}, {"role": "assistant", "content": None, "tool_calls": [_CALL, _CALL]}],
        [{"role": "assistant", "content": "first"}, {"role": "user", "content": "second"}],
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}, {"role": "assistant", "content": "A cat"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    )
]


class Maker:
    """Random expressions and templates over VALUES: most render, some are errors."""

    ATOMS = ["name", "text", "empty", "n", "zero", "neg", "big", "f", "t", "no", "nothing", "xs", "names", "mixed", "d", "people",
             "undefined_thing", "messages", "word", "1", "0", "2.5", "-1", "'a'", "'Hello World'", "''", "true", "none", "[]", "{}", "[1, 2, 'x']",
             "{'a': 1, 'b': [1, 2]}", "(1, 2)", "range(4)", "3", "10", "'1'", "' x '", "1e20", "0.1", "people[0]", "d.items()", "'é世'"]
    BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or", "**"]
    FILTERS = ["upper", "lower", "title", "trim", "length", "string", "list", "first", "last", "join", "join(', ')", "sort", "unique", "reverse",
               "tojson", "int", "float", "abs", "round", "round(1)", "sum", "min", "max", "default('d')", "default('d', true)", "capitalize",
               "replace('a', 'b')", "map('upper')", "map('string')", "map(attribute='name')", "select", "reject('none')", "selectattr('age')",
               "items", "dictsort", "indent", "batch(2)", "slice(2)", "escape", "safe", "tojson(indent=2)", "select('string')", "groupby('age')",
               "center(12)", "truncate(5)", "urlencode", "reverse | list", "map('length') | list", "list | tojson", "count",
               "sort(reverse=true)", "list | unique | list", "map('string') | list", "select('number') | list", "tojson(sort_keys=true)", "map('tojson') | join"]
    TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "mapping", "sequence", "iterable", "true", "false", "boolean",
             "odd", "even", "callable", "lower", "upper", "divisibleby 2", "eq 1", "in xs", "sameas none", "escaped", "gt 1"]
    METHODS = ["strip()", "split()", "split('l')", "upper()", "title()", "items()", "keys()", "values() | list", "get('a')", "get('x', 1)",
               "startswith('a')", "endswith('d')", "replace('l', 'L')", "lstrip('H')", "rstrip('d ')", "splitlines()", "find('o')", "count('l')",
               "join(names)", "format(1, 2)", "swapcase()", "isdigit()", "zfill(5)", "partition('l')", "index(1)", "count(1)", "copy()", "append(1)",
               "capitalize()", "islower()", "rsplit('l', 1)", "removeprefix('H')", "center(9, '*')", "casefold()", "istitle()", "expandtabs()"]
    ITEMS = [".a", ".name", "[0]", "[-1]", "['a']", "['items']", "[1:]", "[:-1]", "[::-1]", "[::2]", ".items", ".x", "[n]", "[9]", "[1:3]", "['x']", ".age",
             "[none:2]", "[-3:]", ".0", "[true]", "[f]"]

    def __init__(self, source):
        self.source = source

    def expression(self, depth):
        r = self.source
        if depth <= 0:
            return r.choice(self.ATOMS)
        kind = r.randrange(12)
        a = self.expression(depth - 1)
        if kind < 3:
            b = self.expression(depth - 1)
            if r.random() < 0.3:
                return f"{a} {r.choice(self.BINARY)} {b}"
            return f"({a}) {r.choice(self.BINARY[:-1])} ({b})"
        if kind < 6:
            return f"({a}) | {r.choice(self.FILTERS)}"
        if kind == 6:
            return f"({a}) is {r.choice(('', 'not '))}{r.choice(self.TESTS)}"
        if kind == 7:
            return f"({a}).{r.choice(self.METHODS)}"
        if kind == 8:
            return f"({a}){r.choice(self.ITEMS)}"
        if kind == 9:
            return f"({a} if {self.expression(depth - 1)} else {self.expression(depth - 1)})"
        if kind == 10:
            return f"{r.choice(('not ', '-', '+'))}({a})"
        return r.choice((f"[{a}, {self.expression(depth - 1)}]", f"{{'k': {a}}}", f"({a},)", f"dict(k={a})", f"'%s|%s' % ({a}, 1)", f"{{{a}: 1}}"))

    NAMES = ["a", "b", "name", "n", "xs", "x"]

    def template(self, depth=3, in_loop=False):
        return "".join(self.statement(depth, in_loop) for _ in range(self.source.randrange(1, 5)))

    def statement(self, depth, in_loop):
        r = self.source
        name = r.choice(self.NAMES)
        begin, end = r.choice((("{%", "%}"), ("{%", "%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%-", "-%}"), ("{%+", "%}")))
        space = r.choice(("", "", " ", "\n", "\n  ", " \n"))

        def tag(text):
            return f"{space}{begin} {text} {end}{r.choice(('', chr(10), ' ', '  t'))}"

        def body(loop=in_loop):
            return self.template(depth - 1, loop)
        kind = r.randrange(14) if depth > 0 else r.randrange(4)
        if kind < 2:
            return f"{space}{r.choice(('{{', '{{-'))} {r.choice((name, name, self.expression(1)))} {r.choice(('}}', '-}}'))}"
        if kind == 2:
            return r.choice(("text", " \n", "\n\n", "  x  \n", "{# c #}\n", " {#- c -#} "))
        if kind == 3:
            return tag(f"set {name} = {r.choice((self.expression(1), r.choice(self.NAMES), '1', name + ' ~ 1'))}")
        if kind < 6:
            otherwise = tag(r.choice(("else", f"elif {name}"))) + body() if r.random() < 0.5 else ""
            return tag(f"if {r.choice((name + ' is defined', name, self.expression(1)))}") + body() + otherwise + tag("endif")
        if kind < 9:
            items = r.choice(("xs", "[1, 2, 3]", "range(3)", "'ab'", "[]", "names", f"xs if {name} is defined", "[3, 4] if x != 3", "xs | map('string')"))
            otherwise = tag("else") + body() if r.random() < 0.3 else ""
            inner = body(True) + r.choice(("{{ loop.index }}", "{{ loop.last }}", "", "{{ loop.length }}", "{{ loop.nextitem }}"))
            return tag(f"for {name} in {items}") + inner + otherwise + tag("endfor")
        if kind == 9:
            args = r.choice(("", "x", "x, a=1", "n=name"))
            call = r.choice(("m()", "m(1)", "m(x=2)", "m(*[1])"))
            return tag(f"macro m({args})") + body(False) + tag("endmacro") + "{{ " + call + " }}"
        if kind == 10:
            return tag(f"set {name}") + body() + tag("endset")
        if kind == 11:
            return tag(r.choice(("filter upper", "filter trim", "filter indent(2, true)"))) + body() + tag("endfilter")
        if kind == 12:
            return tag(f"with {name} = {r.choice(self.NAMES)}") + body() + tag("endwith")
        if in_loop and r.random() < 0.5:
            return tag(f"if {name}") + tag(r.choice(("break", "continue"))) + tag("endif")
        return "{% macro w() %}[{{ caller() }}]{% endmacro %}" + tag("call w()") + body(False) + tag("endcall")
