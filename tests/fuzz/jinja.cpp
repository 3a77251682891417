// Chat templates, rendered with messages of our own, and messages, rendered with a template of our own: within limits,
// twice the same, and with an origin for every byte.
#include "text/jinja/jinja.h"
#include "core/utf8.h"
#include "fuzz/fuzz.h"

#include <map>
#include <optional>
#include <stdexcept>

namespace rankfold::fuzz {

const char* const kName = "jinja";
const double kGrowthOfAByte = 300;  // a token and a node of the tree

const std::vector<std::string>& file_names() {
  static const std::vector<std::string> names{"chat_template.jinja", "messages.json"};
  return names;
}

namespace {

const std::string kMessages = R"([
  {"role": "system", "content": "Be brief. stra\u00dfe"},
  {"role": "user", "content": [{"type": "text", "text": " Hi \"you\"\n"}, {"type": "image"}]},
  {"role": "assistant", "content": "<think>\nhm \u01c6 \ud83d\ude00</think>\n\nYes, 'I' did.\n", "n": 3, "name": null,
   "tool_calls": [{"function": {"name": "look", "arguments": {"where": "\u4e16", "deep": [1, 2.5, true]}}}]},
  {"role": "tool", "content": "12", "name": "look"}
])";
const std::string kTools = R"([{"type": "function", "function": {"name": "look", "parameters": {"properties": {}}}}])";

}  // namespace

std::vector<std::string> seeds() {
  return {
      input(0, R"({{ bos_token }}{% for m in messages %}
{%- if loop.first and m.role != 'system' %}{{ '<|im_start|>system\nhelp<|im_end|>\n' }}{% endif %}
{{- '<|im_start|>' + m['role'] + '\n' }}{% if m.content is string %}{{ m.content | trim }}{% else %}
{%- for part in m.content %}{{ part.text | default('<image>', true) }}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})"),
      input(0, R"({%- macro show(x, depth=0) -%}
  {%- if x is mapping %}
    {%- for k, v in x | dictsort %}{{ k | upper }}: {{ show(v, depth + 1) }}{{ ', ' if not loop.last }}{% endfor %}
  {%- elif x is string %}{{ '"%s"' % x.replace('"', '\\"') }}{% else %}{{ x | tojson }}{% endif %}
{%- endmacro %}
{% set ns = namespace(n=0, seen=[]) %}
{% for m in messages[::-1] %}{% set ns.n = ns.n + (m | string | length) %}
{{ show(m) | indent(2) }}{% set ns.seen = ns.seen + [m.role] %}{% endfor %}
{{ ns.n }} {{ ns.seen | unique | join('|') }})"),
      input(0, R"({% for m in messages if m.role == 'assistant' %}
{% generation %}{% set c = m.content.split('</think>')[-1] %}
{{ c.lstrip('\n')[:9] ~ c[-2] }}{{ m.n * 2 }}{{ c | title }}{{ c.upper().lower() }}{% endgeneration %}
{% else %}none{% endfor %}
{%- set block %} a {{ messages[2].content }} {% endset %}{{ block | trim | replace('hm', 'mh') }}
{%- filter upper %}x{{ messages | map(attribute='role') | list }}{% endfilter %}{{ tools | tojson(indent=4) }})"),
      input(0, R"({% macro wrap() %}<{{ caller('x') }}>{% endmacro %}
{% call(y) wrap() %}{{ y }}{{ messages[0]['content'] }}{% endcall %}
{%- for x in [[1, [2]], 3] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}
{%- for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}
{{ loop.cycle('a', 'b') }}{{ loop.nextitem }}{% if i > 5 %}{% break %}{% endif %}{% endfor %}
{%- with a = 1, b = messages | length %}{{ '{:>4}{!r}'.format(a, b) }}{{ 7 // 2 ** 3 - -a % 5 }}{% endwith %}
{%- raw %}{{ x }}{% endraw %}{# gone #}
{{ messages | selectattr('role', 'equalto', 'user') | list | count }}{{ (1, 'é')[1] | e }})"),
      input(1, kMessages),
      input(1, R"([{"role": "user", "content": "a\tb"},
                   {"role": "", "content": [1.5e3, -0.0, null, 123456789012345678901]}])"),
  };
}

std::vector<Large> large_inputs(int count) {
  const auto of = [count](const std::string& begin, const std::function<std::string(int)>& one, const std::string& end,
                          int bytes_of_one) {
    return input(0, repeated(begin, std::min(count, 1'000'000 / bytes_of_one), one, end, ""));
  };
  const auto same = [](const char* text) { return [text](int) { return std::string(text); }; };
  const auto numbered = [](const std::string& before, const std::string& after) {
    return [=](int i) { return before + "x" + std::to_string(i) + after; };
  };
  const std::string key = "\"k\":0,", message = R"({"role": "user", "content": "Hi"})";
  return {
      {"data and braces", of("", same("{ % "), "", 4)},
      {"outputs", of("", same("{{1}}"), "", 5)},
      {"variables", of("", numbered("{{", "}}"), "", 11)},
      {"comments", of("", same("{##}"), "", 4)},
      {"raw tags without an end", of("{% raw %}", same("{% x "), "", 5)},
      {"tags without an end", of("", same("{% "), "", 3)},
      {"items of a list", of("{{ [", same("1,"), "] }}", 2)},
      {"items of a dict", of("{{ {", numbered("'", "':1,"), "} | length }}", 14)},
      {"arguments", of("{{ dict(", numbered("", "=1,"), ") | length }}", 12)},
      {"sums", of("{{ 1", same("+1"), " }}", 2)},
      {"concatenations", of("{{ 1", same("~1"), " }}", 2)},
      {"comparisons", of("{{ 1", same("<2"), " }}", 2)},
      {"ifs", of("", numbered("{% if ", " %}{% endif %}"), "", 30)},
      {"ifs that set", of("", numbered("{% if 1 %}{% set ", " = 1 %}{% endif %}"), "", 45)},
      {"elifs that set", of("{% if 0 %}", numbered("{% elif 0 %}{% set ", " = 1 %}"), "{% endif %}", 36)},
      {"sets", of("", numbered("{% set ", " = 1 %}"), "", 21)},
      {"sets and loops", of("", numbered("{% set ", " = 1 %}{% for a in [1] %}{{ a }}{% endfor %}"), "", 60)},
      {"macros", of("", numbered("{% macro ", "() %}{{ caller }}{% endmacro %}"), "", 48)},
      {"parameters", of("{% macro m(", numbered("", ","), ") %}{% endmacro %}", 8)},
      {"nested loops", of("", same("{% for a in b %}"), "", 16)},
      {"brackets", of("{{ ", same("("), "", 1)},
      {"filters", of("{{ 'a'", same("|e"), " }}", 2)},
      {"a string", of("{{ '", same("\\n"), "' | upper | tojson | length }}", 2)},
      {"a long word", of("{{ '", same("\xCE\xA3"), "' | lower | title | length }}", 2)},
      {"digits", of("{{ ", same("9"), " }}", 1)},
      {"a name", of("{{ ", same("a"), " }}", 1)},
      {"too large", input(0, std::string(4 << 20, 'a'))},
      {"steps", input(0, "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}")},
      {"messages", input(1, repeated("[", count, same(message.c_str()), "]"))},
      {"brackets of messages", input(1, repeated("", count, same("["), "", ""))},
      {"objects in messages", input(1, repeated("[", 10 * count, same("{}"), "]"))},
      {"numbers", input(1, repeated("[", 10 * count, same("0"), "]"))},
      {"a long number", input(1, std::string(10 * static_cast<size_t>(count), '9'))},
      {"long numbers", input(1, repeated(
                                    "[", count / 30, [](int) { return std::string(300, '7'); }, "]"))},
      {"keys", input(1, repeated(
                            "[{", count, [](int i) { return "\"" + std::to_string(i) + "\":0"; }, "}]"))},
      {"a key twice", input(1, repeated("[{", count, same("\"k\":0"), "}]"))},
      {"letters", input(1, "[{\"role\": \"user\", \"content\": \"" + std::string(4 << 20, 'a') + "\"}]")},
  };
}

namespace {

using jinja::Rendered;
using jinja::Template;
using jinja::Value;
using Variables = std::map<std::string, Value>;

void expect(bool condition, const char* what) {
  if (!condition) throw std::logic_error(what);
}

Value marked(const Value& messages) {
  if (!messages.is_list()) return messages.marked(0);
  std::vector<Value> each;
  for (const Value& message : messages.items()) each.push_back(message.marked(static_cast<int32_t>(each.size())));
  return Value::list(std::move(each));
}

Variables variables(std::string_view messages, bool add_generation_prompt) {
  return {{"messages", marked(jinja::from_json(messages, "messages.json"))},
          {"tools", jinja::from_json(kTools)},
          {"bos_token", "<s>"},
          {"add_generation_prompt", add_generation_prompt}};
}

bool begins_character(const std::string& text, size_t at) { return at == text.size() || (text[at] & 0xC0) != 0x80; }

void check(const Rendered& rendered, size_t messages) {
  const std::string& text = rendered.text;
  expect(is_utf8(text), "UTF-8");
  size_t end = 0;
  const Rendered::Origin* last = nullptr;
  for (const Rendered::Origin& part : rendered.origins) {
    expect(part.begin == end && part.begin < part.end, "origins without gaps");
    expect(last == nullptr || last->origin != part.origin, "neighbours of different origins");
    expect(begins_character(text, part.begin), "origins of whole characters");
    expect(part.origin >= jinja::kTemplateOrigin && part.origin < static_cast<int64_t>(messages), "an origin there is");
    end = part.end;
    last = &part;
  }
  expect(end == text.size(), "an origin for every byte");
  end = 0;
  for (const auto& [begin, its_end] : rendered.generations) {
    expect(end <= begin && begin < its_end && its_end <= text.size(), "generation blocks in order");
    expect(begins_character(text, begin) && begins_character(text, its_end), "generation blocks of whole characters");
    end = its_end;
  }
}

// Throws what rendering throws.
void render(const Template& compiled, const Variables& given) {
  jinja::Options options;
  options.most_steps = 300'000;
  options.most_bytes = 4 << 20;
  options.most_output = 1 << 20;
  std::string errors[2];
  std::optional<jinja::RenderError> error;
  Rendered rendered[2];
  for (int k = 0; k < 2; ++k) {
    try {
      rendered[k] = compiled.render(given, options);
    } catch (const jinja::RenderError& thrown) {
      errors[k] = thrown.what();
      judge_line(thrown.reason());
      error = thrown;
    }
  }
  expect(errors[0] == errors[1], "twice the same error");
  if (error) throw *error;
  expect(rendered[0].text == rendered[1].text && rendered[0].origins == rendered[1].origins &&
             rendered[0].generations == rendered[1].generations,
         "twice the same text");
  const Value& messages = given.at("messages");
  check(rendered[0], messages.is_list() ? messages.items().size() : 1);
  if (wants_result) verdict.result = rendered[0].text;
}

void parse_template(std::string_view source) {
  static const Variables plain = variables(kMessages, false), prompt = variables(kMessages, true);
  const Template compiled = Template::compile(std::string(source), "chat_template.jinja");
  render(compiled, plain);
  render(compiled, prompt);
}

void parse_messages(std::string_view json) {
  static const Template ours = Template::compile(
      R"({{ messages }}|{{ messages | tojson(indent=2) }}|{% for m in messages %}[{{ m.role | title }}]
{{- m.content | string | trim | upper }}{{ (m.content ~ '')[::-1] }}
{%- for k, v in m.items() %}{{ k }}={{ v ~ '' }};{% endfor %}{% endfor %})",
      "ours.jinja");
  render(ours, variables(json, false));
}

}  // namespace
}  // namespace rankfold::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  return rankfold::fuzz::judge(
      [&] { return data[0] % 2 == 0 ? rankfold::fuzz::parse_template(rest) : rankfold::fuzz::parse_messages(rest); });
}
