// A saved video, shown as one: Nodes 2.0 takes what a node shows for pictures unless the node has an input of the type VIDEO or says what it shows.
// Later pages look at the output itself (ComfyUI_frontend, pull request 8943).
import { app } from "../../scripts/app.js";

app.registerExtension({
    name: "blade.preview",
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!["BLADE_SaveVideo", "BLADE_DecodeVideo", "BLADE_Compare"].includes(nodeData.name)) return;
        const { onExecuted } = nodeType.prototype;
        nodeType.prototype.onExecuted = function (output) {
            if (output) this.previewMediaType = output.animated?.[0] ? "video" : "image"; // PNG frames are pictures; a message may lack its output
            return onExecuted?.apply(this, arguments);
        };
    },
});
