// Job DSL, beside its Jenkinsfile in the seed job's workspace.
pipelineJob('node-cleanup') {
    description('Cleans one long-lived node. The cleanup scheduler starts it; its builds say why a node is believed clean.')
    logRotator {
        daysToKeep(90)
    }
    parameters {
        stringParam('NODE', '', 'name of the node')
    }
    definition {
        cps {
            script(readFileFromWorkspace('node-cleanup/Jenkinsfile'))
            sandbox()
        }
    }
}
