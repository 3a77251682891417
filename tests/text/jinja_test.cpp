// Chat templates: what they render, where each character comes from, and what they may not take. That transformers
// renders the same is tested by tests/oracle/test_jinja.py.
#include "text/jinja/jinja.h"
#include "rankfold/error.h"
#include "support/contains.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

namespace rankfold::jinja {
namespace {

using rankfold::testing::contains;
using Variables = std::map<std::string, Value>;

Rendered render(const std::string& source, const Variables& variables = {}, const Options& options = {}) {
  return Template::compile(source, "chat_template").render(variables, options);
}

Variables from(const std::string& json) {
  Variables variables;
  const Value all = from_json(json);
  for (const auto& [name, value] : all.mapping().entries()) variables[name.text().string()] = value;
  return variables;
}

std::string text(const std::string& source, const std::string& json = "{}") { return render(source, from(json)).text; }

std::string error_of(const std::string& source, const Variables& variables = {}, const Options& options = {}) {
  try {
    return "no error, but: " + render(source, variables, options).text;
  } catch (const UserError& error) {
    return error.what();
  }
}

std::string repeated(const std::string& part, int count) {
  std::string all;
  for (int k = 0; k < count; ++k) all += part;
  return all;
}

// Each character of the text with its origin below: '.' for the template, else a letter from 'a' for 0.
std::string origins(const Rendered& rendered) {
  std::string line(rendered.text.size(), '?');
  for (const auto& [begin, end, origin] : rendered.origins)
    line.replace(begin, end - begin, end - begin, origin < 0 ? '.' : static_cast<char>('a' + origin));
  return line;
}

const Value kUser = Value(" Hi \"you\"\n").marked(0), kAnswer = Value("<think>hm</think>Yes").marked(1);

struct Origins {
  const char *source, *text, *origins;
};

TEST(Jinja, KeepsOrigins) {
  const Variables variables = {{"u", kUser}, {"v", kAnswer}};
  for (const auto& [source, expected, marks] : std::vector<Origins>{
           {"[{{ u | trim }}]", "[Hi \"you\"]", ".aaaaaaaa."},
           {"{{ v.split('</think>')[-1] ~ u[1:3] }}", "YesHi", "bbbaa"},
           {"{{ 'x' + v[::-1][:3] + 'y' }}", "xseYy", ".bbb."},
           {"{{ v | replace('think', 't') }}", "<t>hm</t>Yes", "b.bbbbb.bbbb"},
           {"{{ 'a-b' | replace('-', u.strip()) }}", "aHi \"you\"b", ".aaaaaaaa."},
           {"{{ [u.strip(), v[-3:]] | join('|') }}", "Hi \"you\"|Yes", "aaaaaaaa.bbb"},
           {"{{ ','.join([v[-3:], 'z']) }}", "Yes,z", "bbb.."},
           {"{{ u | tojson }}", "\" Hi \\\"you\\\"\\n\"", "aaaaaaaaaaaaaaa"},
           {"{{ {'k': v[-3:]} | tojson }}", "{\"k\": \"Yes\"}", "......bbbbb."},
           {"{{ [v[-3:]] }}", "['Yes']", ".bbbbb."},
           {"{{ [u[1:3] ~ '-' ~ v[-3:]] }}", "['Hi-Yes']", ".aaa.bbbb."},
           {"{{ v[-3:] | upper }}{{ v[-3:] | title }}{{ v[-3:].lower() }}", "YESYesyes", "bbbbbbbbb"},
           {"{{ (v[-3:] ~ '\n' ~ u.strip()) | indent(2) }}", "Yes\n  Hi \"you\"", "bbb...aaaaaaaa"},
           {"{{ v[-3:] | string | safe }}", "Yes", "bbb"},
           {"{{ v[-3:] | e }}{{ '<' ~ u[4:5] | e }}", "Yes<&#34;", "bbb.aaaaa"},
           {"{% macro m(x) %}({{ x }}){% endmacro %}{{ m(v[-3:]) }}", "(Yes)", ".bbb."},
           {"{% set x %}-{{ v[-3:] }}-{% endset %}{{ x[1:] }}", "Yes-", "bbb."},
           {"{% filter upper %}a{{ v[-3:] }}{% endfilter %}", "AYES", ".bbb"},
           {"{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}{{ v[-3:] }}{% endcall %}", "<Yes>", ".bbb."},
           {"{% for c in v[-3:] %}{{ c }} {% endfor %}", "Y e s ", "b.b.b."},
           {"{% set ns = namespace(s='') %}{% for c in v[-2:] %}{% set ns.s = ns.s + c + '.' %}{% endfor %}{{ ns.s }}",
            "e.s.", "b.b."},
           {"{{ '%s!' % v[-3:] }}{{ '{}?'.format(v[-3:]) }}{{ v[-3:] * 2 }}", "Yes!Yes?YesYes", "bbb.bbb.bbbbbb"},
           {"{{ {v[-3:]: 1} | items | first | first }}", "Yes", "bbb"},
           {"{{ v[-3:].center(5, '*') }}", "*Yes*", ".bbb."},
           {"{{ v.partition('hm')[1] }}{{ u.splitlines()[0][1:3] }}", "hmHi", "bbaa"},
       }) {
    const Rendered rendered = render(source, variables);
    EXPECT_EQ(rendered.text, expected) << source;
    EXPECT_EQ(origins(rendered), marks) << source << "\n" << rendered.text;
  }
}

// All that is printed of a message is the message's, also numbers and brackets; what the template makes around it is
// not.
TEST(Jinja, KeepsTheOriginsOfMessages) {
  const Value first = from_json(
      R"({"n": -12, "x": 2.5, "yes": true, "none": null, "empty": "", "list": [1, "a", {"k": []}],
          "big": 123456789012345678901,
          "call": {"name": "f", "arguments": {"where": "\u4e16", "n": 3}}})",
      "message", 0);
  const Variables variables = {{"m", first}, {"o", from_json(R"({"n": 7})").marked(1)}};
  for (const auto& [source, expected, marks] : std::vector<Origins>{
           {"n={{ m.n }}", "n=-12", "..aaa"},
           {"{{ m.x }}{{ m.yes }}{{ m.none }}{{ m.big }}", "2.5TrueNone123456789012345678901",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
           {"{{ m.n ~ '/' ~ o.n }}{{ '%s|%3d|%.1f%%' % (m.n, o.n, m.x) }}", "-12/7-12|  7|2.5%", "aaa.baaa...b.aaa."},
           {"{{ '{}:{:>3}'.format(m.n, o.n) }}{{ [m.n, o.n] | join(',') }}", "-12:  7-12,7", "aaa...baaa.b"},
           {"{{ m.n + 1 }}{{ -m.n }}{{ m.n | string }}{{ m.n | abs }}", "-1112-1212", ".....aaa.."},
           {"{{ m.list }}", "[1, 'a', {'k': []}]", "aaaaaaaaaaaaaaaaaaa"},
           {"{{ m.list | tojson }}{{ m.list[:1] | tojson }}", "[1, \"a\", {\"k\": []}][1]", "aaaaaaaaaaaaaaaaaaaaaa"},
           {"{{ [m.list[2], 1] }}", "[{'k': []}, 1]", ".aaaaaaaaa...."},
           {"{{ m.empty | tojson }}{{ [m.empty] }}{{ m.none | tojson }}", "\"\"['']null", "aa.aa.aaaa"},
           {"{{ {'name': m.call.name, 'arguments': m.call.arguments} | tojson }}",
            "{\"name\": \"f\", \"arguments\": {\"where\": \"世\", \"n\": 3}}",
            ".........aaa...............aaaaaaaaaaaaaaaaaaaaaaaa."},
           {"{{ {'m': m.call.arguments, 'o': o} | tojson(indent=1) }}",
            "{\n \"m\": {\n  \"where\": \"世\",\n  \"n\": 3\n },\n \"o\": {\n  \"n\": 7\n }\n}",
            "........aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa........bbbbbbbbbbbbb.."},
           {"{% for k, v in m.call.arguments.items() %}{{ k }}={{ v }};{% endfor %}", "where=世;n=3;",
            "aaaaa.aaa.a.a."},
           {"{% for k, v in m.call.arguments | dictsort %}{{ k | upper }}{{ v }}{% endfor %}", "N3WHERE世",
            "aaaaaaaaaa"},
           {"{% for k in o %}{{ k }}{{ o[k] }}{% endfor %}{{ o | length }}", "n71", "bb."},
           {"{% set ns = namespace(n=m.n) %}{% set ns.o = o.n %}{{ ns.n }}{{ ns.o }}", "-127", "aaab"},
           {"{% macro p(x, y=1) %}{{ x }}{{ y }}{% endmacro %}{{ p(m.n) }}{{ p(o.n, y=m.x) }}", "-12172.5", "aaa.baaa"},
           {"{{ m.gone | default(o.n) }}{{ m.n | default(1) }}{{ [o.n, 1] | first }}{{ [1, m.x] | last }}", "7-1272.5",
            "baaabaaa"},
           {"{{ m.list | first }}{{ m.list | map('string') | list }}", "1['1', 'a', \"{'k': []}\"]",
            "a.aaa..aaa..aaaaaaaaaaa."},
           {"{{ (m.list | list)[::-1] }}", "[{'k': []}, 'a', 1]", "aaaaaaaaaaaaaaaaaaa"},
       }) {
    const Rendered rendered = render(source, variables);
    EXPECT_EQ(rendered.text, expected) << source;
    EXPECT_EQ(origins(rendered), marks) << source << "\n" << rendered.text;
  }
}

// Characters that change their size in bytes, or become several, take their origin along.
TEST(Jinja, KeepsOriginsWhereSizesChange) {
  const Variables variables = {{"u", Value("straße").marked(0)}, {"v", Value("ŉİ ȺΑΣ ǆ").marked(1)}};
  for (const auto& [source, expected, marks] : std::vector<Origins>{
           {"{{ (u ~ '|ß|' ~ v) | upper }}", "STRASSE|SS|ʼNİ ȺΑΣ Ǆ", "aaaaaaa....bbbbbbbbbbbbbbb"},
           {"{{ (v ~ '.' ~ u).lower() }}", "ŉi̇ ⱥας ǆ.straße", "bbbbbbbbbbbbbbbb.aaaaaaa"},
           {"{{ ('ß' ~ u[4:] ~ v[:1]).title() }}", "Ssßeŉ", "..aaabb"},
           {"{{ (u[4:5] ~ 'ß') | capitalize }}{{ (u[4:5] ~ 'ß') | title }}", "SsßSSß", "aa..aa.."},
           {"{{ (u[4:] ~ '-' ~ v[:1]).swapcase() }}{{ (u ~ 'ß').casefold() }}", "SSE-ʼNstrassess", "aaa.bbbaaaaaaa.."},
           {"{{ (u ~ v)[::-1] }}", "ǆ ΣΑȺ İŉeßarts", "bbbbbbbbbbbbbbaaaaaaa"},
           {"{{ [u[4:5]] | tojson(ensure_ascii=true) }}", "[\"\\u00df\"]", ".aaaaaaaa."},
       }) {
    const Rendered rendered = render(source, variables);
    EXPECT_EQ(rendered.text, expected) << source;
    EXPECT_EQ(origins(rendered), marks) << source << "\n" << rendered.text;
  }
}

TEST(Jinja, KeepsOriginsOfPartsOfText) {
  const Variables variables = {{"u", Value(" a b\tc ").marked(0)}, {"v", Value("--x-y--\nz").marked(1)}};
  for (const auto& [source, expected, marks] : std::vector<Origins>{
           {"{{ ('.' ~ u ~ '.').strip('.') }}{{ ('- ' ~ v).lstrip(' -') }}", " a b\tc x-y--\nz", "aaaaaaabbbbbbb"},
           {"{{ (' ' ~ u ~ '. ').rstrip() }}|{{ u.lstrip() }}|{{ v.rstrip('z') }}", "  a b\tc .|a b\tc |--x-y--\n",
            ".aaaaaaa..aaaaaa.bbbbbbbb"},
           {"{{ ('q' ~ u ~ 'r').split() }}", "['q', 'a', 'b', 'c', 'r']", "......aaa..aaa..aaa......"},
           {"{{ (u ~ v).split(' ', 1) | join('+') }}|{{ v.rsplit('-', 1)[0] }}|{{ v.rpartition('-')[2] }}",
            "+a b\tc --x-y--\nz|--x-y-|\nz", ".aaaaaabbbbbbbbb.bbbbbb.bb"},
           {"{{ (v ~ '-').replace('-', u[1]) }}|{{ (u ~ v[2]).replace(' ', '') }}|{{ v.replace('', '.', 2) }}",
            "aaxayaa\nza|ab\tcx|.-.-x-y--\nz", "aababaabba.aaaab..b.bbbbbbbb"},
           {"{{ (v ~ 'w\n' ~ u) | indent(1, true) }}", " --x-y--\n zw\n  a b\tc ", ".bbbbbbbb.b...aaaaaaa"},
           {"{{ u.expandtabs(2)[3:5] }}{{ u.strip().center(7, '.') }}{{ v[2].zfill(2) }}{{ v.splitlines()[1] }}",
            "b .a b\tc.0xz", "aa.aaaaa..bb"},
           {"{{ v[:3] + u[1] + 'z' }}{{ (v[2], 'k') }}{{ v | truncate(6, true, '...', 0) }}", "--xaz('x', 'k')--x...",
            "bbba..bbb......bbb..."},
           {"{{ v[1:5:3] ~ v[-1:0:-4] }}{{ '%-3s' % v[2] }}{{ (v[2] ~ '%%') % () }}", "-yzyx  x%", "bbbbb..b."},
           {"{% filter replace('x', 'y') | upper %}x{{ v[2] }}{{ u[1:4] }}{% endfilter %}", "YYA B", "..aaa"},
           {"{% set s %}{{ u[1] }}{% set t %}{{ v[2] }}{% endset %}{{ t }}!{% endset %}{{ s * 2 }}", "ax!ax!",
            "ab.ab."},
       }) {
    const Rendered rendered = render(source, variables);
    EXPECT_EQ(rendered.text, expected) << source;
    EXPECT_EQ(origins(rendered), marks) << source << "\n" << rendered.text;
  }
}

TEST(Jinja, FindsGenerationBlocksWhereTheirTextIs) {
  struct Case {
    const char* source;
    std::vector<std::string> parts;
  };
  for (const auto& [source, parts] : std::vector<Case>{
           {"a{% generation %}b{{ 1 }}{% endgeneration %}c", {"b1"}},
           {"a{% generation %}{% endgeneration %}c", {}},
           {"{% generation %}b{% endgeneration %}{% generation %}c{% endgeneration %}", {"b", "c"}},
           {"aa{% macro m() %}x{% generation %}yz{% endgeneration %}{% endmacro %}{{ m() }}{{ m() | upper }}",
            {"yz", "YZ"}},
           {"{% set s %}  {% generation %}one{% endgeneration %} {% endset %}{{ s | trim }}|{{ s }}", {"one", "one"}},
           {"long {% filter trim %}  {% generation %}é世{% endgeneration %}{% endfilter %}", {"é世"}},
           {"{% generation %}a{% generation %}b{% endgeneration %}c{% endgeneration %}", {"abc"}},
           {"{% for x in [1, 2] %}{% generation %}{{ x }}{% endgeneration %}-{% endfor %}", {"1", "2"}},
       }) {
    const Rendered rendered = render(source);
    std::vector<std::string> found;
    for (const auto& [begin, end] : rendered.generations) found.push_back(rendered.text.substr(begin, end - begin));
    EXPECT_EQ(found, parts) << source;
  }
}

TEST(Jinja, ReadsJsonAsPythonDoes) {
  EXPECT_EQ(
      text("{{ x }}",
           R"({"x": [1, 1.0, -0, -0.0, 1e2, 123456789012345678901234567890, 18446744073709551615, null, true,
                    {"z": 1, "a": 2}]})"),
      "[1, 1.0, 0, -0.0, 100.0, 123456789012345678901234567890, 18446744073709551615, None, True, {'z': 1, 'a': 2}]");
}

TEST(Jinja, RefusesHostileJson) {
  const auto refusal = [](const std::string& json) -> std::string {
    try {
      from_json(json, "row 7");
    } catch (const UserError& error) {
      return error.what();
    }
    return "none";
  };
  EXPECT_EQ(refusal("{\"a\": 1, \"a\": 2}"), "row 7: the key 'a' is given twice in one object");
  EXPECT_EQ(refusal(repeated("[", 128) + repeated("]", 128)), "none");
  EXPECT_EQ(refusal(repeated("[", 1'000'000)), "row 7: nested deeper than 128 levels");
  EXPECT_EQ(refusal(repeated("{\"a\":", 1'000'000)), "row 7: nested deeper than 128 levels");
  EXPECT_EQ(refusal(repeated("9", 300)), "none");
  EXPECT_TRUE(contains(refusal("-" + repeated("9", 1'000'000)), "row 7:1:1000001: number overflow"));
  EXPECT_EQ(refusal(std::string("1\0", 2)), "row 7: a NUL byte is not JSON");
  for (const std::string json :
       {"", "[1,", "[1]]", "1e999", "NaN", "\"\\ud800\"", "\"\xED\xA0\x80\"", "\"\xFF\"", "'a'", "\x1b", "\"\x01\""})
    EXPECT_TRUE(contains(refusal(json), "row 7:1:")) << json;
  for (const std::string& json :
       {"{\"\x7F" + repeated("a", 100'000) + "\": 1, \"\x7F" + repeated("a", 100'000) + "\": 1}",
        "[" + repeated("a", 100'000), "\"" + repeated("a", 100'000) + "\n\""}) {
    const std::string error = refusal(json);
    EXPECT_LE(error.size(), 1000u);
    EXPECT_TRUE(std::all_of(error.begin(), error.end(), [](char c) { return c >= ' ' && c < 0x7F; })) << error;
  }
}

TEST(Jinja, TakesTheCallersDate) {
  Options options;
  options.now = {.year = 2024, .month = 2, .day = 9, .hour = 15};
  EXPECT_EQ(render("{{ strftime_now('%d %b %Y, %A %-d %I %p %j') }}", {}, options).text,
            "09 Feb 2024, Friday 9 03 PM 040");
  EXPECT_EQ(text("{{ strftime_now('%Y-%m-%d') }}"), "2000-01-01");
}

TEST(Jinja, NamesThePlaceOfErrors) {
  EXPECT_EQ(error_of("a\n{{ 1 + }}"), "chat_template:2: expected an expression, got 'end of print statement'");
  EXPECT_EQ(
      error_of("\n\n{% for x in y %}"),
      "chat_template:3: Unexpected end of template. Jinja was looking for the following tags: 'endfor' or 'else'. "
      "The innermost block that needs to be closed is 'for' of line 3.");
  EXPECT_EQ(error_of("{{ x | nothing }}"), "chat_template:1: No filter named 'nothing'.");
  EXPECT_EQ(error_of("{% include 'x' %}"), "chat_template:1: the tag 'include' is not supported in chat templates");
  EXPECT_EQ(error_of("\n{{ m.x.y }}", {{"m", Value::dict({})}}), "chat_template:2: 'dict object' has no attribute 'x'");
  EXPECT_EQ(error_of("\n{{ 1 }}\n{{ x.y }}"), "chat_template:3: 'x' is undefined");
  EXPECT_EQ(error_of("{% if true %}\n{{ 'a' + 1 }}{% endif %}"),
            "chat_template:2: can only concatenate str (not \"int\") to str");
  EXPECT_EQ(error_of("\xff"), "chat_template:1: not UTF-8 (byte 1 of the line); convert the file to UTF-8");
}

TEST(Jinja, PassesOnTheTemplatesOwnErrors) {
  try {
    render("{% for m in [1] %}\n{{ raise_exception('Roles must\\nalternate ' ~ m) }}{% endfor %}");
    FAIL();
  } catch (const RenderError& error) {
    EXPECT_EQ(error.reason(), "Roles must\\x0aalternate 1");
    EXPECT_TRUE(error.is_chosen_by_template());
    EXPECT_EQ(error.what(), "chat_template:2: " + error.reason());
  }
}

// What a stranger's template or message brings along is no more than a line, and nothing that a terminal acts on.
TEST(Jinja, ShowsErrorsOnOneLine) {
  const Variables hostile = {{"x", "\x1b[2J" + std::string(100'000, 'a') + "\xE2\x80\xAE\n"}};
  for (const char* source :
       {"{{ raise_exception(x) }}", "{{ {}[x].y }}", "{{ x | int + x }}", "{{ x | map(x) | list }}", "{{ x % 1 }}",
        "{{ dict(**{x: 1}) | batch(**{x: 1}) }}", "{{ x.format() ~ '{a\x1b}'.format() }}", "{{ [] | sum(start=x) }}"}) {
    const std::string error = error_of(source, hostile);
    EXPECT_LE(error.size(), 1000u) << source;
    EXPECT_TRUE(std::all_of(error.begin(), error.end(), [](char c) { return c >= ' ' && c < 0x7F; })) << error;
  }
  for (const std::string source : {"{{ \x1b }}", "{% \x1b[2J %}", "{{ 1 | \xE2\x80\xAE }}", "{{ '\xFF' }}"})
    EXPECT_EQ(error_of(source).find_first_of("\x1b\xE2\xFF"), std::string::npos) << error_of(source);
  EXPECT_LE(error_of("{{ 1 | " + std::string(900, 'a') + " }}").size(), 1000u);
  EXPECT_EQ(error_of(std::string(Template::kLargest + 1, 'a')),
            "chat_template: expected a template of at most 1048576 bytes");
}

TEST(Jinja, SandboxesValues) {
  for (const char* source :
       {"{{ [1].append(2) }}", "{{ {}.update({}) }}", "{{ {'a': 1}.pop('a') }}", "{{ ''.__class__.x }}"})
    EXPECT_TRUE(contains(error_of(source), "chat_template:1: ")) << source;
  EXPECT_EQ(text("{{ ''.__class__ }}{{ [].append is defined }}"), "False");
}

TEST(Jinja, EndsWithinItsLimits) {
  const std::string forever = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
  EXPECT_EQ(error_of(forever), "chat_template:1: the template takes more than 20000000 steps");
  EXPECT_EQ(error_of("{% for a in range(1000) %}{{ 'x' * 1000000 }}{% endfor %}"),
            "chat_template:1: the text is longer than 67108864 bytes");
  const std::string memory = "takes more than 268435456 bytes of memory";
  for (const char* source :
       {"{% set ns = namespace(s='x') %}{% for a in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for a in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{{ 'x' * 1000000000 }}", "{{ [0] * 100000000 }}", "{{ 'a'.center(1000000000) }}",
        "{{ 'a' | indent(1000000000, true) }}", "{{ ('a' * 100000) | replace('', 'b' * 100000) }}",
        "{{ [1] | batch(1000000000, 0) | list }}"})
    EXPECT_TRUE(contains(error_of(source), "memory") || contains(error_of(source), "steps"))
        << source << error_of(source);
  for (const char* source : {"{{ 2 ** 1000000000 }}", "{{ '%1000000000d' % 1 }}", "{{ '{:1000000000}'.format(1) }}",
                             "{{ 'x' * 10 ** 30 }}", "{{ range(10 ** 9) }}", "{{ 10 ** 5000 }}"})
    EXPECT_TRUE(contains(error_of(source), "chat_template:1: ")) << source << error_of(source);
}

TEST(Jinja, RefusesDepth) {
  for (const char* part : {"(", "[", "{'a':", "-", "not ", "x[", "f(", "x.a|f(", "1+(", "a if b else "})
    EXPECT_TRUE(contains(error_of("{{ " + repeated(part, 30'000)), "chat_template:1: ")) << part;
  for (const char* part : {"+1", "|e", ".a", "[0]", "()", " is defined", " and 1", "**1", "*1", " if 1"})
    EXPECT_TRUE(contains(error_of("{{ 1" + repeated(part, 30'000) + " }}"), "chat_template:1: ")) << part;
  for (const char* part : {"{% if 1 %}", "{% for x in y %}", "{% macro m() %}", "{% set x %}", "{% filter upper %}",
                           "{% set (((a, b), c), d) = "})
    EXPECT_TRUE(contains(error_of(repeated(part, 30'000)), "chat_template:1: ")) << part;
  EXPECT_EQ(text("{{ 1" + repeated(" ~ 1", 1000) + " }}").size(), 1001u);
  EXPECT_EQ(text("{% if 0 %}" + repeated("{% elif 0 %}", 10'000) + "{% else %}x{% endif %}"), "x");

  EXPECT_TRUE(
      contains(error_of("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), "macros call each other deeper than 200"));
  EXPECT_TRUE(contains(error_of("{% macro m(x) %}{% if 1 %}{% for a in [1] %}{{ [m(1 + m(x))] }}{% endfor %}{% endif "
                                "%}{% endmacro %}{{ m() }}"),
                       "deeper"));
  EXPECT_TRUE(contains(error_of("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"), "deeper"));
  for (const char* set :
       {"[ns.x]", "{'a': ns.x}", "ns.x | map('string')", "cycler(ns.x)", "(ns.x,)", "dict(a=ns.x).items()"})
    EXPECT_TRUE(
        contains(error_of(std::string("{% set ns = namespace(x=[1]) %}{% for i in range(10000) %}{% set ns.x = ") +
                          set + " %}{% endfor %}"),
                 "nested deeper"))
        << set;
  // Namespaces hold each other, in a row and in a circle: printing ends, and so does forgetting them.
  const std::string chain =
      "{% set ns = namespace() %}{% for i in range(100000) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}";
  EXPECT_EQ(text(chain + "ok"), "ok");
  EXPECT_TRUE(contains(error_of(chain + "{{ ns }}"), "deeper"));
  EXPECT_EQ(text("{% set a = namespace() %}{% set a.b = namespace(a=a) %}{{ a }}"),
            "<Namespace {'b': <Namespace {'a': <Namespace {...}>}>}>");
  EXPECT_EQ(text("{% for x in [1] %}{{ loop.changed(loop) }}{% endfor %}"), "True");
  // A list of itself twice, and so on, is small, but not when it is printed or compared.
  const std::string doubled =
      "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
  EXPECT_EQ(text(doubled + "ok"), "ok");
  for (const char* use : {"{{ ns.x }}", "{{ ns.x | tojson }}", "{% set y = ns.x[:] %}{{ ns.x == [y[0][:], y[1]] }}",
                          "{{ {'a': (ns.x,)} == ns.x }}"})
    EXPECT_FALSE(text("{{ 1 }}").empty() && error_of(doubled + use).empty()) << use;
}

TEST(Jinja, TakesItsLimitsFromTheCaller) {
  Options options;
  options.most_steps = 100;
  EXPECT_TRUE(contains(error_of("{% for a in range(1000) %}{% endfor %}", {}, options), "more than 100 steps"));
  options = {};
  options.most_bytes = 1000;
  EXPECT_TRUE(contains(error_of("{{ 'x' * 2000 }}", {}, options), "more than 1000 bytes"));
  options = {};
  options.most_output = 10;
  EXPECT_TRUE(contains(error_of("{{ 'x' * 11 }}", {}, options), "longer than 10 bytes"));
  options = {};
  options.deepest = 10;
  EXPECT_TRUE(contains(error_of("{{ ((((((((((1 + 1) + 1) + 1) + 1) + 1) + 1) + 1) + 1) + 1) + 1) }}", {}, options),
                       "deeper than 10"));
}

TEST(Jinja, IsRenderedByThreadsAtOnce) {
  const Template shared = Template::compile(
      "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content | length %}{{ m | tojson "
      "}}{% endfor %}{{ ns.n }}",
      "t");
  const Variables variables =
      from(R"({"messages": [{"content": "Hello"}, {"content": "World", "n": 12345678901234567890}]})");
  const std::string expected = shared.render(variables).text;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int k = 0; k < 200; ++k) EXPECT_EQ(shared.render(variables).text, expected);
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace rankfold::jinja
