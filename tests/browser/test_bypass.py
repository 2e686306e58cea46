"""The page itself hands on what docs/bypass.md says where a node is bypassed."""

from tests.bypass import TITLE, written

HANDED_ON = """
const done = arguments[0], given = [];
const another = (socket, kind) => {
    const node = new LiteGraph.LGraphNode('Other');
    node.type = node.comfyClass = 'Other';
    node[socket]('value', kind);
    app.graph.add(node);
    return node;
};
(async () => {
    for (const type of Object.keys(LiteGraph.registered_node_types).filter(type => type.startsWith('BLADE_'))) {
        app.graph.clear();
        const node = LiteGraph.createNode(type), feeding = {};
        app.graph.add(node);
        node.inputs.forEach((input, slot) => {
            if (input.widget) return;
            const other = another('addOutput', input.type);
            other.connect(0, node, slot);
            feeding[other.id] = input.name;
        });
        const taking = node.outputs.map((output, slot) => {
            const other = another('addInput', output.type);
            node.connect(slot, other, 0);
            return [output.name, other.id];
        });
        node.mode = 4;
        const prompt = (await app.graphToPrompt()).output;
        for (const [output, id] of taking) given.push([node.title, output, feeding[prompt[id].inputs.value?.[0]] ?? null]);
    }
    app.graph.clear();
    done(given);
})().catch(error => done(String(error)));
"""


def test_each_output_of_each_node_is_given_what_the_docs_say(page):
    given = page.driver.execute_async_script(HANDED_ON)
    assert {(node.removesuffix(TITLE), output): stands_in for node, output, stands_in in given} == written()
